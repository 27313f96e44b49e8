"""Services that change rows in batches, as large as the database can process in time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from millhand.core.clock import Clock
from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.job import JobRow, JobState
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.error_text import error_fields
from millhand.engine.service import IntervalService, WakeReason
from millhand.engine.store.job import Rescue

logger = logger_of(__name__)

Id = TypeVar("Id", bound=int)
T = TypeVar("T")

STATEMENT_SECONDS = 30.0

NUM_ROWS = 10_000
NUM_ROWS_REDUCED = 1_000
NUM_TIMEOUTS = 3
TIMEOUTS_WITHIN_SECONDS = 600.0

# More rows than this in one batch are not refused for what is in them.
NUM_REFUSED_MAX = 100
# As long as the scheduler leaves such a row out.
REFUSED_SECONDS = 300.0
# PostgreSQL's classes of errors that no row causes: a missing table, column, schema or privilege.
_CLASSES_OF_STATEMENTS = ("42", "3F")

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


class Refused:
    """Ids of rows whose change the database refused. Each is left out for `REFUSED_SECONDS`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[int, float] = {}

    def add(self, id: int) -> None:
        self._until[id] = self._clock.monotonic() + REFUSED_SECONDS

    def without(self, ids: Iterable[Id]) -> list[Id]:
        """Return the other ones of `ids`, in order."""
        now = self._clock.monotonic()
        self._until = {id: until for id, until in self._until.items() if until > now}
        return sorted(id for id in ids if id not in self._until)


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


async def write_allowed(
    items: Sequence[T],
    write: Callable[[Sequence[T]], Awaitable[object]],
    log_refused: Callable[[T, DriverError], None],
) -> None:
    """
    Write items, and leave out those that the database refuses, as for a user's trigger that raises: they block no others.

    Bisection: the halves of a batch that is refused are written each by itself, down to single items.
    Raises: DriverError, if the error is transient or no item's fault.
    """
    num_refused, batches = 0, [items] if items else []
    while batches:
        batch = batches.pop()
        try:
            await write(batch)
        except DriverError as error:
            if not _may_be_of_row(error) or num_refused == NUM_REFUSED_MAX:
                raise
            if len(batch) == 1:
                num_refused += 1
                log_refused(batch[0], error)
            else:
                middle = len(batch) // 2
                batches += batch[middle:], batch[:middle]


def _may_be_of_row(error: DriverError) -> bool:
    is_answer = error.sqlstate is not None and not error.retryable
    return is_answer and not str(error.sqlstate).startswith(_CLASSES_OF_STATEMENTS)


def log_not_rescued(job: JobRow, error: DriverError) -> None:
    """Log that the database refused the rescue of a job, which stays running."""
    logger.error("job not rescued", extra={"job_id": job.id, "kind": job.kind, **error_fields(error)})


def report_discarded(job: JobRow, rescue: Rescue, metrics: ClientMetrics) -> None:
    """Log and count a job that its rescue discarded, as its client would have done; do nothing for other rescues."""
    if rescue.state is not JobState.DISCARDED:
        return
    fields = {
        "job_id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "state": rescue.state.value,
        "error": rescue.error.error,
    }
    logger.error("job discarded", extra=fields)
    metrics.add_discarded(job.queue, job.kind)
