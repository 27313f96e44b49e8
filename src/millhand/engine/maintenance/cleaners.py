"""Delete what is old: finalized jobs, rows of queues that no client works, and rows of clients that are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from millhand.core.clock import REST_SECONDS_MAX, Clock
from millhand.core.errors import DriverError
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.engine.maintenance.batch import STATEMENT_SECONDS, BatchService, BatchSize
from millhand.engine.maintenance.keeper import Keeper
from millhand.engine.maintenance.scan_scope import ScanStart
from millhand.engine.registration import Registration
from millhand.engine.service import IntervalService
from millhand.engine.store.client import client_delete_gone
from millhand.engine.store.job import Kept, job_delete_before
from millhand.engine.store.queue import queue_delete_expired

logger = logger_of(__name__)

# An outcome may be committed this much later than its `finalized_at`, and the next pass still finds it.
LATE = timedelta(minutes=1)
# Producers update their queue's row every ten minutes.
QUEUE_RETENTION = timedelta(hours=24)
# The jobs of yesterday name their clients.
CLIENT_RETENTION = timedelta(hours=24)


class JobCleaner(BatchService):
    """
    Deletes each job that was finalized longer ago than its state's retention; None keeps jobs of that state.

    `keepers` say which jobs stay longer.
    Where dead index entries make a statement slow, a pass scans from where the last one ended, and scans everything again
    every few minutes.
    Source: River v0.51.2, internal/maintenance/job_cleaner.go.
    """

    interval_seconds = 30.0

    def __init__(
        self,
        pool: Executor,
        *,
        clock: Clock,
        cancelled_retention: timedelta | None,
        completed_retention: timedelta | None,
        discarded_retention: timedelta | None,
        keepers: Sequence[Keeper] = (),
        batch_size: BatchSize | None = None,
    ) -> None:
        super().__init__(pool, clock, batch_size)
        self._cancelled_retention = cancelled_retention
        self._completed_retention = completed_retention
        self._discarded_retention = discarded_retention
        self._keepers = keepers
        self._kept: list[Kept] = []
        self._scan_from: datetime | None = None
        self._scan_start = ScanStart(clock, slack=LATE, max_seconds=REST_SECONDS_MAX)
        self._took_seconds = 0.0

    async def run(self, started: Callable[[], None]) -> None:
        self._scan_start.restart()
        for keeper in self._keepers:
            keeper.begin_term()
        await super().run(started)

    async def run_once(self) -> None:
        if (self._cancelled_retention, self._completed_retention, self._discarded_retention) != (None,) * 3:
            kept = [await keeper.kept(self._pool) for keeper in self._keepers]
            self._kept = [one for one in kept if one is not None]
            self._scan_from = self._scan_start.begin()
            try:
                await super().run_once()
            except DriverError:  # a table of a keeper may be gone
                for keeper in self._keepers:
                    keeper.look_again()
                raise
            self._scan_start.end(self._took_seconds)

    async def run_batch(self, num_rows: int) -> int:
        now = self._clock.now()
        query = job_delete_before(
            cancelled_horizon=_before(now, self._cancelled_retention),
            completed_horizon=_before(now, self._completed_retention),
            discarded_horizon=_before(now, self._discarded_retention),
            kept=self._kept,
            limit=num_rows,
            within=None if self._scan_from is None else now - self._scan_from,
        )
        began = self._clock.monotonic()
        num_deleted = await self._pool.run(query.within(STATEMENT_SECONDS))
        self._took_seconds = self._clock.monotonic() - began
        if num_deleted:
            logger.debug("jobs deleted", extra={"num_jobs": num_deleted})
        return num_deleted


class QueueCleaner(BatchService):
    """
    Deletes the row of each queue without an update for `QUEUE_RETENTION`, paused or not. Its jobs stay.

    Source: River v0.51.2, internal/maintenance/queue_cleaner.go.
    """

    interval_seconds = 3600.0

    async def run_batch(self, num_rows: int) -> int:
        query = queue_delete_expired(updated_at_horizon=self._clock.now() - QUEUE_RETENTION, limit=num_rows)
        names = await self._pool.run(query.within(STATEMENT_SECONDS))
        for name in names:
            logger.info("queue deleted", extra={"queue": name})
        return len(names)


class ClientCleaner(IntervalService):
    """
    Deletes the row of each client without a heartbeat for `CLIENT_RETENTION` that holds no running job.

    Without an active registration a pass does nothing.
    """

    interval_seconds = 3600.0

    def __init__(self, pool: Executor, *, clock: Clock, registration: Registration) -> None:
        super().__init__()
        self._clock = clock
        self._pool = pool
        self._registration = registration

    async def run_once(self) -> None:
        if not self._registration.is_active:
            return
        query = client_delete_gone(last_seen_horizon=self._clock.now() - CLIENT_RETENTION)
        ids = await self._pool.run(query.within(STATEMENT_SECONDS))
        if ids:
            logger.debug("clients deleted", extra={"num_clients": len(ids)})
        self.probe("cleaned", ids)


def _before(now: datetime, retention: timedelta | None) -> datetime | None:
    return None if retention is None else now - retention
