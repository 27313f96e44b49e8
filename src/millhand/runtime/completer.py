"""
Writes the state changes of jobs in batches.

Rule 1: a change that was handed over is written or logged: it is kept through failures as long as the client lives.
Rule 2: while one batch is written the next one gathers, so batches grow with the load and no change waits for a timer.
Rule 3: plain successes take a faster statement of their own. The jobs that it did not find go through the full statement.
Rule 4: a batch that the database refuses because of its contents is written row by row, so one bad row blocks no other.
Rule 5: a change counts for its own attempt only. If the job was rescued or has another attempt, the change is not written,
        and the completer logs that.
Rule 6: after a failure, and during a stop, rows that other transactions have locked are left for later.

                 hand_over          ┌─ job_complete_many ──────────────┐
    executor ──▶ backlog ──▶ batch ─┤                                  ├──▶ events
                 (back-pressure)    └─ job_set_state_if_running_many ──┘

Source: River v0.51.2, internal/jobcompleter/job_completer.go `BatchCompleter`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import TypeVar

import msgspec

from millhand.clock import Clock, backoff_seconds
from millhand.driver.protocol import Executor
from millhand.errors import DriverError, MillhandError, OperationTimeout
from millhand.event import EventKind, JobEvent, JobStatistics
from millhand.job import ClientId, JobId, JobRow, JobState
from millhand.runtime.attempt import Attempt
from millhand.runtime.outage import level_of
from millhand.runtime.service import Service, WakeEvent, WakeReason
from millhand.runtime.subscription import Subscriptions
from millhand.store.job import job_complete_many, job_get_locked, job_set_state_if_running_many
from millhand.store.query import Query
from millhand.transition import StateChange, event_kind_of, is_same_attempt, is_superseded

logger = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_SIZE = 5_000  # River's
BACKLOG_FULL = 10_000  # River's; from here on attempts keep their slots until half of it is written
# A stop waits this long for an unreachable database: a restart of it takes as long, and supervisors wait little longer.
FLUSH_SECONDS = 10.0
LAST_SECONDS = 1.0  # the timeout of a write at the very end of that
NUM_IDS_MAX = 100  # of each state in one log line
ZERO = datetime.min.replace(tzinfo=UTC)

_FINALIZED_AT = attrgetter("change.finalized_at")
_ID = attrgetter("change.id")


class Finished(msgspec.Struct, frozen=True, gc=False):
    """A change to be written, and what its event and its log lines need."""

    change: StateChange
    attempt: Attempt
    handed_over: float
    is_plain: bool


class Completer(Service):
    """
    Writes the changes of one client; `on_available` is called with jobs that were made available again.

    Concurrency: any attempt may call `hand_over`; one batch is written at a time.
    """

    def __init__(
        self,
        pool: Executor,
        client_id: ClientId,
        *,
        clock: Clock,
        on_available: Callable[[JobRow], None],
        subscriptions: Subscriptions,
    ) -> None:
        super().__init__()
        self._backlog: dict[JobId, Finished] = {}
        self._backlog_limit: float = BACKLOG_FULL
        self._client_id = client_id
        self._flush_until: float | None = None  # set by a stop
        self._has_logged_failure = False
        self._has_logged_locked = False
        self._has_room = asyncio.Event()
        self._in_flight: Sequence[Finished] = ()
        self._locked_ids: set[JobId] = set()  # waiting because their rows were locked at the last check
        self._monotonic = clock.monotonic
        self._num_failures = 0
        self._on_available = on_available
        self._pool = pool
        self._subscriptions = subscriptions
        self.num_by_kind = dict.fromkeys(EventKind, 0)

    def count_kept(self) -> int:
        """Return how many changes are not known to be written: those that wait, and those in flight."""
        return len(self._backlog) + len(self._in_flight)

    def is_pending(self, id: JobId) -> bool:
        """Return whether a change of the job waits or is in flight."""
        return id in self._backlog or any(one.change.id == id for one in self._in_flight)

    def hand_over(self, change: StateChange, attempt: Attempt) -> Awaitable[object] | None:
        """
        Take a change to be written soon. Return None, or an awaitable for the attempt to wait on if the backlog is full.

        Of two attempts of one job the later fetched one counts.
        """
        is_plain = change.state is JobState.COMPLETED and not change.metadata
        one, backlog = Finished(change, attempt, self._monotonic(), is_plain), self._backlog
        if backlog.setdefault(change.id, one) is not one:
            self._keep(one)
        self.wake_event.set()
        if len(backlog) < self._backlog_limit:
            return None
        self._has_room.clear()
        return self._has_room.wait()

    def end_back_pressure(self) -> None:
        """Take every change from now on: no more jobs are fetched, and a stop must not wait for the database."""
        self._backlog_limit = math.inf
        self._has_room.set()

    async def run(self, started: Callable[[], None]) -> None:
        started()
        while await self._wait() is not WakeReason.STOP:
            while self._backlog and await self._write_batch():
                pass
        await self._flush()

    async def _wait(self) -> WakeReason:
        """Wait until there is a change to write; after a failure wait for the whole pause, whatever wakes the loop."""
        if not self._num_failures:
            return await self.wake_event.wait()
        loop = asyncio.get_running_loop()
        until = loop.time() + backoff_seconds(self._num_failures, first=0.25, ceiling=8.0)
        while (seconds := until - loop.time()) > 0:
            if await self.wake_event.wait(seconds) is WakeReason.STOP:
                return WakeReason.STOP
        return WakeReason.TIMEOUT

    async def _flush(self) -> None:
        """Write the backlog; try failed writes again for `FLUSH_SECONDS`."""
        loop = asyncio.get_running_loop()
        flush_until = self._flush_until = loop.time() + FLUSH_SECONDS
        num_failures = 0
        while self._backlog:
            if await self._write_batch():
                continue
            if loop.time() >= flush_until:
                break
            num_failures += 1
            # An event of its own: the service's only returns STOP by now.
            await WakeEvent().wait(backoff_seconds(num_failures, first=0.25, ceiling=2.0))
        if self._backlog:
            outcomes = format_outcomes(one.change for one in self._backlog.values())
            logger.error("completions lost", extra={"num_jobs": len(self._backlog), "outcomes": outcomes})
            self._backlog.clear()
        self._has_room.set()

    async def _write_batch(self) -> bool:
        """Write up to a batch of the backlog; return whether the database took all of it."""
        batch = self._in_flight = self._take()
        checks_locks = self._num_failures or self._flush_until is not None
        is_written = await (self._write_unlocked(batch) if checks_locks else self._write(batch))
        self._in_flight = ()
        if is_written and not self._locked_ids:
            self._record_recovered(len(batch))
        if len(self._backlog) < BACKLOG_FULL // 2:
            self._has_room.set()
        self.probe("written", len(batch))
        return is_written

    def _record_recovered(self, num_jobs: int) -> None:
        if self._has_logged_failure:
            self._has_logged_failure = self._has_logged_locked = False
            logger.info("completions recovered", extra={"num_jobs": num_jobs})
        self._num_failures = 0

    async def _write(self, batch: Sequence[Finished]) -> bool:
        others = [one for one in batch if not one.is_plain]
        plain = [one for one in batch if one.is_plain] if others else batch
        if plain and not await self._try(plain, self._complete):
            self._requeue(others)
            return False
        return not others or await self._try(others, self._set_state)

    async def _write_unlocked(self, batch: Sequence[Finished]) -> bool:
        """Write the changes whose rows are not locked, and keep the others at the end of the backlog."""
        locked = await self._get_locked(batch)
        if locked is None:
            return False
        self._locked_ids.difference_update(map(_ID, batch))
        if not locked:
            return await self._write(batch)
        self._in_flight = free = [one for one in batch if one.change.id not in locked]
        for one in batch:
            if one.change.id in locked:
                self._keep(one)
        self._locked_ids.update(locked)
        self._log_locked(locked)
        if not free or await self._write(free):
            self._num_failures = 1  # a short pause before the locked rows are tried again
        return False

    async def _get_locked(self, batch: Sequence[Finished]) -> Collection[JobId] | None:
        """Return the jobs whose rows are locked by other transactions; None if the database does not answer."""
        try:
            locked = await self._pool.run(self._bounded(job_get_locked([*map(_ID, batch)])))
        except (DriverError, OperationTimeout) as error:
            if not _is_transient(error):
                return ()
            self._record_waiting(batch, error)
            return None
        return frozenset(locked)

    def _log_locked(self, ids: Collection[JobId]) -> None:
        if not self._has_logged_locked:
            self._has_logged_failure = self._has_logged_locked = True
            fields = {"num_jobs": len(ids), "job_ids": _format_ids(sorted(ids))}
            logger.warning("completions locked", extra=fields)

    def _take(self) -> list[Finished]:
        if len(self._backlog) <= BATCH_SIZE:
            batch, self._backlog = list(self._backlog.values()), {}
            return batch
        ids = list(itertools.islice(self._backlog, BATCH_SIZE))
        return [self._backlog.pop(id) for id in ids]

    def _requeue(self, batch: Iterable[Finished]) -> None:
        """Put changes at the head of the backlog, before those handed over meanwhile."""
        newer, self._backlog = self._backlog, {one.change.id: one for one in batch}
        for one in newer.values():
            self._keep(one)

    def _keep(self, one: Finished) -> None:
        former = self._backlog.setdefault(one.change.id, one)
        if former is not one:
            older, newer = sorted((former, one), key=_fetched_at)
            self._backlog[one.change.id] = newer
            _log_too_late(older)

    async def _try(
        self, batch: Sequence[Finished], write: Callable[[Sequence[Finished]], Awaitable[None]]
    ) -> bool:
        try:
            await write(batch)
        except (DriverError, OperationTimeout) as error:
            if not _is_transient(error):
                return await self._try_one_by_one(batch, write, error)
            self._record_waiting(batch, error)
            return False
        return True

    def _record_waiting(self, batch: Sequence[Finished], error: MillhandError) -> None:
        self._requeue(batch)
        self._num_failures += 1
        level = logging.DEBUG if self._has_logged_failure else level_of(error)
        self._has_logged_failure |= level == logging.WARNING
        logger.log(level, "completions waiting", extra={"num_jobs": len(batch), **_error_fields(error)})

    async def _try_one_by_one(
        self,
        batch: Sequence[Finished],
        write: Callable[[Sequence[Finished]], Awaitable[None]],
        error: MillhandError,
    ) -> bool:
        """Write a refused batch row by row; a row that is refused alone is logged and stays running, to be rescued."""
        if len(batch) == 1:
            row, state = batch[0].attempt.row, batch[0].change.state.value
            fields = {"job_id": row.id, "kind": row.kind, "state": state, **_error_fields(error)}
            logger.error("completion refused", extra=fields)
            return True
        for place, one in enumerate(batch, 1):
            if not await self._try([one], write):  # the database does not answer
                self._requeue(batch[place:])
                return False
        return True

    async def _complete(self, batch: Sequence[Finished]) -> None:
        """Write plain successes; jobs that no longer run go through the full statement, which returns their rows."""
        query = job_complete_many(
            client_id=self._client_id,
            ids=[*map(_ID, batch)],
            attempted_ats=[one.change.attempted_at or ZERO for one in batch],
            finalized_ats=[*map(_FINALIZED_AT, batch)],  # all have one
        )
        written = await self._pool.run(self._bounded(query))
        if len(written) < len(batch):
            found = frozenset(written)
            missed = [one for one in batch if one.change.id not in found]
            self._requeue(msgspec.structs.replace(one, is_plain=False) for one in missed)
            batch = [one for one in batch if one.change.id in found]
        self._emit_completed(batch)

    async def _set_state(self, batch: Sequence[Finished]) -> None:
        query = job_set_state_if_running_many([one.change for one in batch])
        rows = await self._pool.run(self._bounded(query))
        self._emit(batch, rows)

    def _bounded(self, query: Query[T]) -> Query[T]:
        """Return a query that times out with the flush of a stop, or `LAST_SECONDS` after it."""
        if self._flush_until is None:
            return query
        left = self._flush_until - asyncio.get_running_loop().time()
        return query.within(min(query.timeout_seconds, max(left, LAST_SECONDS)))

    def _emit_completed(self, batch: Sequence[Finished]) -> None:
        self.num_by_kind[EventKind.JOB_COMPLETED] += len(batch)
        if self._subscriptions:
            at = self._monotonic()
            self._subscriptions.distribute(
                [_event(EventKind.JOB_COMPLETED, one, _completed_row(one), at) for one in batch]
            )

    def _emit(self, batch: Sequence[Finished], rows: Sequence[JobRow]) -> None:
        by_id = {row.id: row for row in rows}
        at = self._monotonic()
        events = []
        for one in batch:
            row = by_id.get(one.change.id)
            is_late = is_superseded(row, one.change)
            if is_late:
                _log_too_late(one)
            # Emit an event if another client finalized the job. Another attempt emits its own event.
            if row is None or (is_late and not (row.state.is_finalized and is_same_attempt(row, one.change))):
                continue
            kind = event_kind_of(row.state, one.change)
            if kind is not None:
                self.num_by_kind[kind] += 1
                events.append(_event(kind, one, row, at))
                if row.state is JobState.AVAILABLE:
                    self._on_available(row)
        if self._subscriptions:
            self._subscriptions.distribute(events)


def format_outcomes(changes: Iterable[StateChange]) -> str:
    """Return changes as one line: states with the ids of their jobs, `NUM_IDS_MAX` of each."""
    by_state: dict[JobState, list[JobId]] = {}
    for change in changes:
        by_state.setdefault(change.state, []).append(change.id)
    return "; ".join(f"{state.value}: {_format_ids(ids)}" for state, ids in sorted(by_state.items()))


def _format_ids(ids: Sequence[JobId]) -> str:
    text = " ".join(str(id) for id in ids[:NUM_IDS_MAX])
    return text if len(ids) <= NUM_IDS_MAX else f"{text} and {len(ids) - NUM_IDS_MAX} more"


def _is_transient(error: MillhandError) -> bool:
    """Return whether the same batch may succeed later: after a lost connection, a timeout or a deadlock, not bad data."""
    return isinstance(error, OperationTimeout) or (isinstance(error, DriverError) and error.retryable)


def _error_fields(error: MillhandError) -> dict[str, str]:
    return {"error_type": type(error).__name__, "error": str(error)}


def _fetched_at(one: Finished) -> datetime:
    return one.change.attempted_at or ZERO  # None in rows that were not fetched by a client


def _log_too_late(one: Finished) -> None:
    row, state = one.attempt.row, one.change.state.value
    logger.warning(
        "outcome came too late",
        extra={
            "job_id": row.id,
            "kind": row.kind,
            "queue": row.queue,
            "attempt": row.attempt,
            "state": state,
        },
    )


def _completed_row(one: Finished) -> JobRow:
    return msgspec.structs.replace(
        one.attempt.row, state=JobState.COMPLETED, finalized_at=one.change.finalized_at
    )


def _event(kind: EventKind, one: Finished, row: JobRow, at: float) -> JobEvent:
    attempt = one.attempt
    statistics = JobStatistics(
        complete_seconds=at - one.handed_over,
        queue_wait_seconds=attempt.queue_wait_seconds,
        run_seconds=attempt.run_seconds,
    )
    return JobEvent(kind=kind, queue=row.queue, job=row, statistics=statistics)
