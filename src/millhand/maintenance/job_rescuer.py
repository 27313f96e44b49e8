"""
Gives back jobs whose worker died, or never returned.

Which of the jobs that have been running for long are rescued, and what becomes of each, is decided by
`decide_rescue`, in this order:

    cancellation was asked for ─────────────▶ cancelled
    its worker may still be at it ──────────▶ left alone
    attempts left ──────────────────────────▶ retryable, when the worker's policy or else the client's says
    no attempts left ───────────────────────▶ discarded

Unlike River's, this rescuer does not discard jobs of a kind that it does not know: in a fleet of several languages the
leader need not know every kind. Such a job is retried by the client's policy, and the log says so. Nor does it stop
over metadata that is no object, or over a mark of cancellation that is no instant.

Source: River v0.51.2, internal/maintenance/job_rescuer.go.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from millhand.clock import Clock
from millhand.driver.protocol import Executor
from millhand.insert_opts import CANCEL_MARK
from millhand.job import AttemptError, JobId, JobRow, JobState
from millhand.maintenance.batch import STATEMENT_SECONDS, BatchSize, BatchSweeper
from millhand.retry import RetryPolicy, checked_retry_at
from millhand.store.job import Rescue, job_get_stuck, job_rescue_many
from millhand.worker import Worker, Workers

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0
ERROR = "Stuck job rescued by JobRescuer"

ZERO_TIME = "0001-01-01T00:00:00Z"  # Go's


class JobRescuer(BatchSweeper):
    """
    Rescues jobs that have been running for longer than `rescue_after` and, if their worker has a timeout, than that.

    `job_timeout` is the client's, for workers that have none of their own; None or a negative one is none.
    """

    def __init__(
        self,
        pool: Executor,
        *,
        clock: Clock,
        job_timeout: timedelta | None,
        rescue_after: timedelta,
        retry_policy: RetryPolicy,
        workers: Workers,
        batch_size: BatchSize | None = None,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        super().__init__(batch_size or BatchSize(clock))
        self.interval_seconds = interval_seconds
        self._after_id = JobId(0)
        self._clock = clock
        self._job_timeout = job_timeout
        self._pool = pool
        self._rescue_after = rescue_after
        self._retry_policy = retry_policy
        self._workers = workers

    async def run_once(self) -> None:
        self._after_id = JobId(0)
        await super().run_once()

    async def run_batch(self, num_rows: int) -> int:
        now = self._clock.now()
        horizon = now - self._rescue_after
        stuck = job_get_stuck(stuck_horizon=horizon, after_id=self._after_id, limit=num_rows)
        jobs = await self._pool.run(stuck.within(STATEMENT_SECONDS))
        if not jobs:
            return 0
        rescues = {job.id: (job, rescue) for job in jobs if (rescue := self._decide(job, now)) is not None}
        if rescues:
            query = job_rescue_many([rescue for _, rescue in rescues.values()], stuck_horizon=horizon)
            ids = await self._pool.run(query.within(STATEMENT_SECONDS))
            for id in sorted(ids):
                self._tell(*rescues[id])
            if ids:
                logger.info("jobs rescued", extra={"num_jobs": len(ids)})
        # Page by page by id, so that a page of jobs which are left alone does not hide those behind it.
        self._after_id = jobs[-1].id
        return len(jobs)

    def _decide(self, job: JobRow, now: datetime) -> Rescue | None:
        return decide_rescue(
            job,
            self._workers.get(job.kind),
            job_timeout=self._job_timeout,
            now=now,
            retry_policy=self._retry_policy,
        )

    def _tell(self, job: JobRow, rescue: Rescue) -> None:
        """Log what became of the job; nobody else tells how this attempt ended."""
        fields = {
            "attempt": job.attempt,
            "job_id": job.id,
            "kind": job.kind,
            "max_attempts": job.max_attempts,
            "queue": job.queue,
            "state": rescue.state.value,
        }
        if job.kind in self._workers:
            logger.warning("job rescued", extra=fields)
        else:
            logger.warning("job of unknown kind rescued", extra=fields)
        self.probe("rescued", job.id)


def decide_rescue(
    job: JobRow,
    worker: Worker | None,
    *,
    job_timeout: timedelta | None,
    now: datetime,
    retry_policy: RetryPolicy,
) -> Rescue | None:
    """
    Return what becomes of a `job` that has been running for long, or None if it is to be left alone.

    `worker` is that of its kind, None if there is none here. `job_timeout` and `retry_policy` are the client's.
    Source: River v0.51.2, internal/maintenance/job_rescuer.go `makeRetryDecision`, but for unknown kinds.
    """
    error = AttemptError(now, job.attempt, ERROR)
    if _is_cancel_requested(job):
        return Rescue(job.id, JobState.CANCELLED, error, finalized_at=now)
    if worker is not None and not _is_readable(job, worker):
        worker = None  # it cannot be at it, and has nothing to say about the job
    if worker is not None and _may_be_at_it(job, worker, job_timeout, now):
        return None
    if job.attempt >= job.max_attempts:
        return Rescue(job.id, JobState.DISCARDED, error, finalized_at=now)
    policy = retry_policy if worker is None or worker.retry is None else worker.retry
    return Rescue(job.id, JobState.RETRYABLE, error, scheduled_at=checked_retry_at(policy, job, now))


def _is_cancel_requested(job: JobRow) -> bool:
    """Whatever stands there, as for completions, but for what Go's clients write for "not cancelled"."""
    return job.metadata.get(CANCEL_MARK) not in (None, ZERO_TIME)


def _is_readable(job: JobRow, worker: Worker) -> bool:
    try:
        worker.decode(job.encoded_args)
    except Exception:  # noqa: BLE001 - InvalidJob, or whatever a user's args class raises
        return False
    return True


def _may_be_at_it(job: JobRow, worker: Worker, job_timeout: timedelta | None, now: datetime) -> bool:
    timeout = job_timeout if worker.timeout is None else worker.timeout
    if timeout is None or timeout < timedelta(0):
        return True
    return job.attempted_at is not None and now - job.attempted_at < timeout
