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
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from millhand.clock import Clock
from millhand.driver.protocol import Executor
from millhand.job import AttemptError, ClientId, JobId, JobRow, JobState
from millhand.maintenance.batch import STATEMENT_SECONDS, BatchService, BatchSize
from millhand.maintenance.pace import WholeLooks
from millhand.retry import RetryPolicy, checked_retry_at
from millhand.store.client_end import job_get_stuck_beside_clients, job_get_stuck_of_client
from millhand.store.job import Rescue, job_get_stuck, job_rescue_many
from millhand.store.query import Query
from millhand.transition import is_cancel_requested
from millhand.worker import Worker, Workers

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0
OWN_INTERVAL_SECONDS = 60.0
ERROR = "Stuck job rescued by JobRescuer"


class JobRescuer(BatchService):
    """
    Rescues jobs that have been running for longer than `rescue_after` and, if their worker has a timeout, than that.

    `job_timeout` is the client's, for workers that have none of their own; None or a negative one is none. While
    `is_beside_clients`, jobs of clients that report are left to these, and to who gives them back when they are gone.
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
        is_beside_clients: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(batch_size or BatchSize(clock))
        self.interval_seconds = interval_seconds
        self._after_id = JobId(0)
        self._clock = clock
        self._is_beside_clients = is_beside_clients
        self._is_whole = True
        self._job_timeout = job_timeout
        self._pool = pool
        self._rescue_after = rescue_after
        self._retry_policy = retry_policy
        self._whole_looks = WholeLooks(clock)
        self._workers = workers

    async def run(self, started: Callable[[], None]) -> None:
        self._whole_looks.restart()
        await super().run(started)

    async def run_once(self) -> None:
        self._after_id = JobId(0)
        self._is_whole = self._whole_looks.is_due()
        await super().run_once()

    async def run_batch(self, num_rows: int) -> int:
        now = self._clock.now()
        horizon = now - self._rescue_after
        stuck = self._stuck(horizon, num_rows)
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

    def _stuck(self, horizon: datetime, num_rows: int) -> Query[list[JobRow]]:
        get = job_get_stuck_beside_clients if self._is_beside_clients() else job_get_stuck
        return get(
            stuck_horizon=horizon,
            after_id=self._after_id,
            limit=num_rows,
            due_before=self._due_before(horizon),
        )

    def _due_before(self, horizon: datetime) -> datetime | None:
        """Return when a job was due, at the latest, that has been running since before the horizon; None: at any time."""
        return None if self._is_whole else horizon

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


class OwnJobRescuer(JobRescuer):
    """
    Rescues, in each client, those of its own jobs that run by their rows and that it does not work any more.

    That is what is left of an outcome which the database refused. `is_held` says whether a job is still worked, or about
    to be written; one that is not is rescued when the next pass finds it so again. While it is not wanted, it does nothing.
    """

    def __init__(
        self,
        pool: Executor,
        *,
        client_id: ClientId,
        is_held: Callable[[JobId], bool],
        is_wanted: Callable[[], bool],
        interval_seconds: float = OWN_INTERVAL_SECONDS,
        **settings: Any,  # noqa: ANN401 - those of the rescuer
    ) -> None:
        super().__init__(pool, interval_seconds=interval_seconds, **settings)
        self._client_id = client_id
        self._idle: set[JobId] = set()
        self._idle_before: set[JobId] = set()
        self._is_held = is_held
        self._is_wanted = is_wanted

    async def run_once(self) -> None:
        if self._is_wanted():
            self._idle, self._idle_before = set(), self._idle
            await super().run_once()

    def _stuck(self, horizon: datetime, num_rows: int) -> Query[list[JobRow]]:
        return job_get_stuck_of_client(
            client_id=self._client_id,
            stuck_horizon=horizon,
            after_id=self._after_id,
            limit=num_rows,
            # What was found once is to be found twice.
            due_before=None if self._idle_before else self._due_before(horizon),
        )

    def _decide(self, job: JobRow, now: datetime) -> Rescue | None:
        if self._is_held(job.id):
            return None
        self._idle.add(job.id)
        return super()._decide(job, now) if job.id in self._idle_before else None


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
    if is_cancel_requested(job):
        return Rescue(job.id, JobState.CANCELLED, error, finalized_at=now)
    if worker is not None and not _is_readable(job, worker):
        worker = None  # it cannot be at it, and has nothing to say about the job
    if worker is not None and _may_be_at_it(job, worker, job_timeout, now):
        return None
    if job.attempt >= job.max_attempts:
        return Rescue(job.id, JobState.DISCARDED, error, finalized_at=now)
    policy = retry_policy if worker is None or worker.retry is None else worker.retry
    return Rescue(job.id, JobState.RETRYABLE, error, scheduled_at=checked_retry_at(policy, job, now))


def _is_readable(job: JobRow, worker: Worker) -> bool:
    try:
        worker.decode(job.encoded_args)
    except (Exception, SystemExit):  # noqa: BLE001 - InvalidJob, or whatever a user's args class raises
        return False
    return True


def _may_be_at_it(job: JobRow, worker: Worker, job_timeout: timedelta | None, now: datetime) -> bool:
    timeout = job_timeout if worker.timeout is None else worker.timeout
    if timeout is None or timeout < timedelta(0):
        return True
    return job.attempted_at is not None and now - job.attempted_at < timeout
