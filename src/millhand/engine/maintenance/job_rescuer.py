"""
Rescues stuck jobs: those that have been running for longer than any worker should take.

`decide_rescue` decides about each such job, in this order:

    cancellation was requested ─────────────▶ cancelled
    its worker may still run ───────────────▶ left alone
    attempts left ──────────────────────────▶ retryable, by the retry policy of the worker, else of the client
    no attempts left ───────────────────────▶ discarded

Two differences from River's rescuer. It retries jobs of an unknown kind by the client's policy and logs that, because in a
fleet of several languages the leader need not know every kind; River discards them. And it accepts metadata that is no
object and a cancel mark that is no timestamp.

Source: River v0.51.2, internal/maintenance/job_rescuer.go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from millhand.core.args.secret_keys import SecretKeys
from millhand.core.clock import Clock
from millhand.core.errors import DriverError
from millhand.core.job import AttemptError, ClientId, JobId, JobRow, JobState
from millhand.core.log.logger import logger_of
from millhand.core.retry import RetryPolicy, checked_retry_at
from millhand.core.transition import is_cancel_requested
from millhand.core.worker import Worker, Workers
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.maintenance.batch import (
    STATEMENT_SECONDS,
    BatchService,
    BatchSize,
    log_not_rescued,
    report_discarded,
    write_allowed,
)
from millhand.engine.maintenance.scan_scope import FullScanTimer
from millhand.engine.registration import Registration
from millhand.engine.store.client_end import job_get_stuck_beside_clients, job_get_stuck_of_client
from millhand.engine.store.job import Rescue, job_get_stuck, job_rescue_many

logger = logger_of(__name__)

ERROR = "Stuck job rescued by JobRescuer"


class JobRescuer(BatchService):
    """
    Rescues jobs that have been running for longer than both `rescue_after` and the timeout of their worker.

    `job_timeout` applies to workers without a timeout of their own; None and negative values mean no timeout. While the
    `registration` is active, jobs of registered clients are left to `OwnJobRescuer` and `ClientRescuer`.
    """

    interval_seconds = 30.0

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
        metrics: ClientMetrics | None = None,
        registration: Registration | None = None,
        secret_keys: SecretKeys | None = None,
    ) -> None:
        super().__init__(pool, clock, batch_size)
        self._after_id = JobId(0)
        self._full_scan_timer = FullScanTimer(clock)
        self._is_full = True
        self._job_timeout = job_timeout
        self._metrics = ClientMetrics() if metrics is None else metrics
        self._registration = Registration() if registration is None else registration
        self._rescue_after = rescue_after
        self._retry_policy = retry_policy
        self._secret_keys = secret_keys
        self._workers = workers

    async def run(self, started: Callable[[], None]) -> None:
        self._full_scan_timer.restart()
        await super().run(started)

    async def run_once(self) -> None:
        self._after_id = JobId(0)
        self._is_full = self._full_scan_timer.take_due()
        await super().run_once()

    async def run_batch(self, num_rows: int) -> int:
        now = self._clock.now()
        horizon = now - self._rescue_after
        jobs = await self._pool.run(self._stuck(horizon, num_rows).within(STATEMENT_SECONDS))
        if not jobs:
            return 0
        rescues = [(job, rescue) for job in jobs if (rescue := self._decide(job, now)) is not None]
        await write_allowed(rescues, partial(self._rescue, horizon), _log_refused)
        # Pages by id: a page of jobs that are left alone must not hide the jobs behind it.
        self._after_id = jobs[-1].id
        return len(jobs)

    async def _rescue(self, horizon: datetime, rescues: Sequence[tuple[JobRow, Rescue]]) -> None:
        query = job_rescue_many([rescue for _, rescue in rescues], stuck_horizon=horizon)
        ids = {*await self._pool.run(query.within(STATEMENT_SECONDS))}
        for job, rescue in rescues:
            if job.id in ids:
                self._log_rescued(job, rescue)
                report_discarded(job, rescue, self._metrics)
        if ids:
            logger.info("jobs rescued", extra={"num_jobs": len(ids)})
            self._metrics.add_rescued(self.name, len(ids))

    def _stuck(self, horizon: datetime, num_rows: int) -> Query[list[JobRow]]:
        get = job_get_stuck_beside_clients if self._registration.is_active else job_get_stuck
        return get(
            stuck_horizon=horizon,
            after_id=self._after_id,
            limit=num_rows,
            due_before=self._due_before(horizon),
        )

    def _due_before(self, horizon: datetime) -> datetime | None:
        """Return the latest `scheduled_at` of a job fetched before the horizon; None to scan everything."""
        return None if self._is_full else horizon

    def _decide(self, job: JobRow, now: datetime) -> Rescue | None:
        return decide_rescue(
            job,
            self._workers.get(job.kind),
            job_timeout=self._job_timeout,
            now=now,
            retry_policy=self._retry_policy,
            secret_keys=self._secret_keys,
        )

    def _log_rescued(self, job: JobRow, rescue: Rescue) -> None:
        fields = {
            "attempt": job.attempt,
            "job_id": job.id,
            "kind": job.kind,
            "max_attempts": job.max_attempts,
            "queue": job.queue,
            "state": rescue.state.value,
        }
        is_known = job.kind in self._workers
        logger.warning("job rescued" if is_known else "job of unknown kind rescued", extra=fields)
        self.probe("rescued", job.id)


class OwnJobRescuer(JobRescuer):
    """
    Rescues, in each client, the client's own jobs whose row says running though no attempt runs.

    Such rows remain when the database refuses to store an outcome. `is_held` says whether a job runs here or its outcome is
    about to be written. A job that is not held in two passes in a row is rescued. Without an active registration a pass
    does nothing.
    """

    interval_seconds = 60.0

    def __init__(
        self,
        pool: Executor,
        *,
        client_id: ClientId,
        is_held: Callable[[JobId], bool],
        **settings: Any,  # noqa: ANN401 - those of JobRescuer
    ) -> None:
        super().__init__(pool, **settings)
        self._client_id = client_id
        self._is_held = is_held
        self._unheld: set[JobId] = set()
        self._unheld_before: set[JobId] = set()

    async def run_once(self) -> None:
        if self._registration.is_active:
            self._unheld, self._unheld_before = set(), self._unheld
            await super().run_once()

    def _stuck(self, horizon: datetime, num_rows: int) -> Query[list[JobRow]]:
        return job_get_stuck_of_client(
            client_id=self._client_id,
            stuck_horizon=horizon,
            after_id=self._after_id,
            limit=num_rows,
            # A job that a full scan found must be found again by the next pass.
            due_before=None if self._unheld_before else self._due_before(horizon),
        )

    def _decide(self, job: JobRow, now: datetime) -> Rescue | None:
        if self._is_held(job.id):
            return None
        self._unheld.add(job.id)
        return super()._decide(job, now) if job.id in self._unheld_before else None


def _log_refused(refused: tuple[JobRow, Rescue], error: DriverError) -> None:
    log_not_rescued(refused[0], error)


def decide_rescue(
    job: JobRow,
    worker: Worker | None,
    *,
    job_timeout: timedelta | None,
    now: datetime,
    retry_policy: RetryPolicy,
    secret_keys: SecretKeys | None = None,
) -> Rescue | None:
    """
    Return the rescue of a `job` that has been running for long, or None to leave it alone.

    `worker` is that of its kind, None if this client has none. `job_timeout` and `retry_policy` are the client's.
    Source: River v0.51.2, internal/maintenance/job_rescuer.go `makeRetryDecision`, but for unknown kinds.
    """
    error = AttemptError(now, job.attempt, ERROR)
    if is_cancel_requested(job):
        return Rescue(job.id, JobState.CANCELLED, error, finalized_at=now)
    if worker is not None and not _is_readable(job, worker, secret_keys):
        worker = None  # it cannot run the job
    if worker is not None and _may_still_run(job, worker, job_timeout, now):
        return None
    if job.attempt >= job.max_attempts:
        return Rescue(job.id, JobState.DISCARDED, error, finalized_at=now)
    policy = retry_policy if worker is None or worker.retry is None else worker.retry
    return Rescue(job.id, JobState.RETRYABLE, error, scheduled_at=checked_retry_at(policy, job, now))


def _is_readable(job: JobRow, worker: Worker, secret_keys: SecretKeys | None) -> bool:
    try:
        worker.decoder(job.kind, secret_keys)(job.encoded_args)
    except (Exception, SystemExit):  # noqa: BLE001 - InvalidJob, or any exception of a user's args class
        return False
    return True


def _may_still_run(job: JobRow, worker: Worker, job_timeout: timedelta | None, now: datetime) -> bool:
    timeout = job_timeout if worker.timeout is None else worker.timeout
    if timeout is None or timeout < timedelta(0):
        return True
    return job.attempted_at is not None and now - job.attempted_at < timeout
