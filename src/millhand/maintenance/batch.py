"""Services that change rows in batches, as large as the database can process in time."""

from __future__ import annotations

import random
from collections import deque

from millhand.clock import Clock
from millhand.driver.protocol import Executor
from millhand.errors import OperationTimeout
from millhand.runtime.service import IntervalService, WakeReason

STATEMENT_SECONDS = 30.0

NUM_ROWS = 10_000
NUM_ROWS_REDUCED = 1_000
NUM_TIMEOUTS = 3
TIMEOUTS_WITHIN_SECONDS = 600.0

# Between full batches, so that a long backlog leaves the database time for other work.
PAUSE_SECONDS = (0.05, 1.0)


class BatchSize:
    """
    The number of rows in one batch of a service.

    Three timeouts in a row within ten minutes reduce it for the life of the process.
    Source: River v0.51.2, rivershared/riversharedmaintenance `BatchSizes`; internal/maintenance, circuit breakers.
    """

    def __init__(self, clock: Clock, *, num_rows: int = NUM_ROWS) -> None:
        self._clock = clock
        self._timeouts: deque[float] = deque(maxlen=NUM_TIMEOUTS)
        self.num_rows = num_rows

    def record_success(self) -> None:
        self._timeouts.clear()

    def record_timeout(self) -> None:
        """Record that a batch timed out, and reduce the size if that happens often."""
        now = self._clock.monotonic()
        self._timeouts.append(now)
        if len(self._timeouts) == NUM_TIMEOUTS and now - self._timeouts[0] <= TIMEOUTS_WITHIN_SECONDS:
            self.num_rows = min(self.num_rows, NUM_ROWS_REDUCED)


class BatchService(IntervalService):
    """A service whose pass works batch by batch until a batch is not full or the service stops."""

    _pause_seconds = PAUSE_SECONDS

    def __init__(self, pool: Executor, clock: Clock, batch_size: BatchSize | None = None) -> None:
        super().__init__()
        self._batch_size = batch_size or BatchSize(clock)
        self._clock = clock
        self._pool = pool

    async def run_batch(self, num_rows: int) -> int:
        """Process up to `num_rows` rows and return how many were found; `num_rows` means that there may be more."""
        raise NotImplementedError(self.name)

    async def run_once(self) -> None:
        while True:
            num_rows = self._batch_size.num_rows
            try:
                num_found = await self.run_batch(num_rows)
            except OperationTimeout:
                self._batch_size.record_timeout()
                raise
            self._batch_size.record_success()
            self.probe("batch", num_found)
            if num_found < num_rows:
                return
            pause = random.uniform(*self._pause_seconds)  # noqa: S311 - spreads load, guards nothing
            if await self.wake_event.wait(pause) is WakeReason.STOP:
                return
