"""Deletes finalized jobs when they are old enough."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from millhand.clock import Clock
from millhand.driver.protocol import Executor
from millhand.maintenance.batch import STATEMENT_SECONDS, BatchSize, BatchSweeper
from millhand.store.job import job_delete_before

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0


class JobCleaner(BatchSweeper):
    """
    Deletes each job that was finalized longer ago than its state's retention; None keeps that state for ever.

    Nothing but finalized jobs is ever deleted.
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

    async def run_once(self) -> None:
        if (self._cancelled_retention, self._completed_retention, self._discarded_retention) != (None,) * 3:
            await super().run_once()

    async def run_batch(self, num_rows: int) -> int:
        now = self._clock.now()
        query = job_delete_before(
            cancelled_horizon=_before(now, self._cancelled_retention),
            completed_horizon=_before(now, self._completed_retention),
            discarded_horizon=_before(now, self._discarded_retention),
            limit=num_rows,
        )
        num_deleted = await self._pool.run(query.within(STATEMENT_SECONDS))
        if num_deleted:
            logger.debug("jobs deleted", extra={"num_jobs": num_deleted})
        return num_deleted


def _before(now: datetime, retention: timedelta | None) -> datetime | None:
    return None if retention is None else now - retention
