"""Deletes finalized jobs when they are old enough."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from millhand.clock import REST_SECONDS_MAX, Clock
from millhand.driver.protocol import Executor
from millhand.maintenance.batch import STATEMENT_SECONDS, BatchService, BatchSize
from millhand.maintenance.scan_scope import ScanStart
from millhand.store.job import job_delete_before

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0
# An outcome may be committed this much later than its `finalized_at`, and the next pass still finds it.
LATE = timedelta(minutes=1)


class JobCleaner(BatchService):
    """
    Deletes each job that was finalized longer ago than its state's retention; None keeps jobs of that state.

    Only finalized jobs are deleted. Where dead index entries make a statement slow, a pass scans from where the last one
    ended, and scans everything again every few minutes.
    Source: River v0.51.2, internal/maintenance/job_cleaner.go.
    """

    def __init__(
        self,
        pool: Executor,
        *,
        clock: Clock,
        cancelled_retention: timedelta | None,
        completed_retention: timedelta | None,
        discarded_retention: timedelta | None,
        batch_size: BatchSize | None = None,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        super().__init__(batch_size or BatchSize(clock))
        self.interval_seconds = interval_seconds

        self._cancelled_retention = cancelled_retention
        self._clock = clock
        self._completed_retention = completed_retention
        self._discarded_retention = discarded_retention
        self._pool = pool
        self._scan_from: datetime | None = None
        self._scan_start = ScanStart(clock, slack=LATE, max_seconds=REST_SECONDS_MAX)
        self._took_seconds = 0.0

    async def run(self, started: Callable[[], None]) -> None:
        self._scan_start.restart()
        await super().run(started)

    async def run_once(self) -> None:
        if (self._cancelled_retention, self._completed_retention, self._discarded_retention) != (None,) * 3:
            self._scan_from = self._scan_start.begin()
            await super().run_once()
            self._scan_start.end(self._took_seconds)

    async def run_batch(self, num_rows: int) -> int:
        now = self._clock.now()
        query = job_delete_before(
            cancelled_horizon=_before(now, self._cancelled_retention),
            completed_horizon=_before(now, self._completed_retention),
            discarded_horizon=_before(now, self._discarded_retention),
            limit=num_rows,
            within=None if self._scan_from is None else now - self._scan_from,
        )
        began = self._clock.monotonic()
        num_deleted = await self._pool.run(query.within(STATEMENT_SECONDS))
        self._took_seconds = self._clock.monotonic() - began
        if num_deleted:
            logger.debug("jobs deleted", extra={"num_jobs": num_deleted})
        return num_deleted


def _before(now: datetime, retention: timedelta | None) -> datetime | None:
    return None if retention is None else now - retention
