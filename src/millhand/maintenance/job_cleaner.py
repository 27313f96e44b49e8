"""Deletes finalized jobs when they are old enough."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from millhand.clock import REST_SECONDS_MAX, Clock
from millhand.driver.protocol import Executor
from millhand.maintenance.batch import STATEMENT_SECONDS, BatchService, BatchSize
from millhand.maintenance.pace import Behind
from millhand.store.job import job_delete_before

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0
# An outcome that is written, or committed, so much later than it is dated is seen at once all the same.
LATE = timedelta(minutes=1)


class JobCleaner(BatchService):
    """
    Deletes each job that was finalized longer ago than its state's retention; None keeps that state for ever.

    Nothing but finalized jobs is ever deleted. Where a look is slow, for dead entries of the index that an old snapshot
    keeps, a pass looks from where the last one ended, and from the start again every few minutes.
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
        self._behind = Behind(clock, slack=LATE, most_seconds=REST_SECONDS_MAX)
        self._cancelled_retention = cancelled_retention
        self._clock = clock
        self._completed_retention = completed_retention
        self._discarded_retention = discarded_retention
        self._floor: datetime | None = None
        self._pool = pool
        self._took_seconds = 0.0

    async def run(self, started: Callable[[], None]) -> None:
        self._behind.restart()
        await super().run(started)

    async def run_once(self) -> None:
        if (self._cancelled_retention, self._completed_retention, self._discarded_retention) != (None,) * 3:
            self._floor = self._behind.begin()
            await super().run_once()
            self._behind.end(self._took_seconds)

    async def run_batch(self, num_rows: int) -> int:
        now = self._clock.now()
        query = job_delete_before(
            cancelled_horizon=_before(now, self._cancelled_retention),
            completed_horizon=_before(now, self._completed_retention),
            discarded_horizon=_before(now, self._discarded_retention),
            limit=num_rows,
            within=None if self._floor is None else now - self._floor,
        )
        began = self._clock.monotonic()
        num_deleted = await self._pool.run(query.within(STATEMENT_SECONDS))
        self._took_seconds = self._clock.monotonic() - began
        if num_deleted:
            logger.debug("jobs deleted", extra={"num_jobs": num_deleted})
        return num_deleted


def _before(now: datetime, retention: timedelta | None) -> datetime | None:
    return None if retention is None else now - retention
