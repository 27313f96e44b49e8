"""Deletes the rows of queues that no client works any more."""

from __future__ import annotations

import logging
from datetime import timedelta

from millhand.clock import Clock
from millhand.driver.protocol import Executor
from millhand.maintenance.batch import STATEMENT_SECONDS, BatchService, BatchSize
from millhand.store.queue import queue_delete_expired

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 3600.0
# Producers update their queue's row every ten minutes.
RETENTION = timedelta(hours=24)


class QueueCleaner(BatchService):
    """
    Deletes the row of each queue without an update for `retention`, paused or not. Its jobs stay.

    Source: River v0.51.2, internal/maintenance/queue_cleaner.go.
    """

    def __init__(
        self,
        pool: Executor,
        *,
        clock: Clock,
        batch_size: BatchSize | None = None,
        interval_seconds: float = INTERVAL_SECONDS,
        retention: timedelta = RETENTION,
    ) -> None:
        super().__init__(batch_size or BatchSize(clock))
        self.interval_seconds = interval_seconds
        self._clock = clock
        self._pool = pool
        self._retention = retention

    async def run_batch(self, num_rows: int) -> int:
        query = queue_delete_expired(updated_at_horizon=self._clock.now() - self._retention, limit=num_rows)
        names = await self._pool.run(query.within(STATEMENT_SECONDS))
        for name in names:
            logger.info("queue deleted", extra={"queue": name})
        return len(names)
