"""
State changes, written in batches.

Rule 1: a change that was handed over is written or told of: it is kept through failures, as long as the client lives.
Rule 2: while one batch is being written the next one gathers, so batches grow with the load nobody waits for a tick.
Rule 3: plain successes take a short cut, a statement of their own; whatever it did not find is asked for again in full.
Rule 4: a batch that the database refuses for what is in it is written row by row; one poisoned row holds up nobody.
Rule 5: a change counts for its own attempt. One whose job was given back meanwhile, or has another attempt, changes
        nothing, and is told of in the log.
Rule 6: after a failure, and in a stop, rows that somebody else has locked are left for later; they hold up no others.

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
# How long a stop holds out for a database that is away: a restart takes so long, and whoever stops us has not much more.
FLUSH_SECONDS = 10.0
LAST_SECONDS = 1.0  # for a write that is tried at the very end of it
SHOWN_MAX = 100  # jobs of each state whose outcomes are lost
ZERO = datetime.min.replace(tzinfo=UTC)

_FINALIZED_AT = attrgetter("change.finalized_at")
_ID = attrgetter("change.id")


class Finished(msgspec.Struct, frozen=True, gc=False):
    """A change on its way into the table, and what is needed to tell of it."""

    change: StateChange
    attempt: Attempt
    handed_over: float
    is_plain: bool


class Completer(Service):
    """
    Writes for one client; `on_available` is told of jobs that are to be tried again soon.

    Concurrency: `hand_over` is called from any attempt; one batch is written at a time.
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
        self._client_id = client_id
        self._give_up_at: float | None = None  # of a stop
        self._has_room = asyncio.Event()
        self._has_told = False  # of a failure
        self._has_told_locked = False
        self._monotonic = clock.monotonic
        self._most_kept: float = BACKLOG_FULL
        self._num_failures = 0
        self._on_available = on_available
        self._pool = pool
        self._set_aside: set[JobId] = set()  # those that were locked when they were last looked at, and wait
        self._subscriptions = subscriptions
        self._written: Sequence[Finished] = ()  # changes on their way
        self.num_by_kind = dict.fromkeys(EventKind, 0)

    @property
    def num_pending(self) -> int:
        """How many changes are not written yet."""
        return len(self._backlog)

    @property
    def num_kept(self) -> int:
        """How many changes are not known to be written: those that wait, and those on their way."""
        return len(self._backlog) + len(self._written)

    def is_pending(self, id: JobId) -> bool:
        """Whether a change of the job is not known to be written: it waits for that, or is on its way."""
        return id in self._backlog or any(one.change.id == id for one in self._written)

    def hand_over(self, change: StateChange, attempt: Attempt) -> Awaitable[object] | None:
        """
        Take a change to be written soon. Returns None, or, when too much is waiting, what to await before going on.

        Of two attempts at the same job the later fetched one counts.
        """
        is_plain = change.state is JobState.COMPLETED and not change.metadata
        one, backlog = Finished(change, attempt, self._monotonic(), is_plain), self._backlog
        if backlog.setdefault(change.id, one) is not one:
            self._keep(one)
        self.wake_event.set()
        if len(backlog) < self._most_kept:
            return None
        self._has_room.clear()
        return self._has_room.wait()

    def hold_up_nobody(self) -> None:
        """Take whatever comes from now on, for nothing more is fetched: a stop must not wait for the database."""
        self._most_kept = math.inf
        self._has_room.set()

    async def run(self, started: Callable[[], None]) -> None:
        started()
        while await self._wait() is not WakeReason.STOP:
            while self._backlog and await self._write_batch():
                pass
        await self._flush()

    async def _wait(self) -> WakeReason:
        """Sleep until there is something to write; after a failure for the whole of a pause, whoever rings."""
        if not self._num_failures:
            return await self.wake_event.wait()
        loop = asyncio.get_running_loop()
        until = loop.time() + backoff_seconds(self._num_failures, first=0.25, ceiling=8.0)
        while (seconds := until - loop.time()) > 0:
            if await self.wake_event.wait(seconds) is WakeReason.STOP:
                return WakeReason.STOP
        return WakeReason.TIMEOUT

    async def _flush(self) -> None:
        """Write what is left; a write that failed is tried again for `FLUSH_SECONDS`."""
        loop = asyncio.get_running_loop()
        give_up_at = self._give_up_at = loop.time() + FLUSH_SECONDS
        num_failures = 0
        while self._backlog:
            if await self._write_batch():
                continue
            if loop.time() >= give_up_at:
                break
            num_failures += 1
            await WakeEvent().wait(
                backoff_seconds(num_failures, first=0.25, ceiling=2.0)
            )  # ours is past ringing
        if self._backlog:
            outcomes = format_outcomes(one.change for one in self._backlog.values())
            logger.error("completions lost", extra={"num_jobs": len(self._backlog), "outcomes": outcomes})
            self._backlog.clear()
        self._has_room.set()

    async def _write_batch(self) -> bool:
        """Write what waits, up to a batch of it; return whether the database took all of it."""
        batch = self._written = self._take()
        is_careful = self._num_failures or self._give_up_at is not None
        is_well = await (self._write_unlocked(batch) if is_careful else self._write(batch))
        self._written = ()
        is_over = is_well and not self._set_aside
        if is_over and self._has_told:
            self._has_told = self._has_told_locked = False
            logger.info("completions recovered", extra={"num_jobs": len(batch)})
        if is_over:
            self._num_failures = 0
        if len(self._backlog) < BACKLOG_FULL // 2:
            self._has_room.set()
        self.probe("written", len(batch))
        return is_well

    async def _write(self, batch: Sequence[Finished]) -> bool:
        others = [one for one in batch if not one.is_plain]
        plain = [one for one in batch if one.is_plain] if others else batch
        if plain and not await self._try(plain, self._complete):
            self._put_back(others)
            return False
        return not others or await self._try(others, self._set_state)

    async def _write_unlocked(self, batch: Sequence[Finished]) -> bool:
        """Write what nobody else has locked, and keep the rest, behind all that waits."""
        locked = await self._locked(batch)
        if locked is None:
            return False
        self._set_aside.difference_update(map(_ID, batch))
        if not locked:
            return await self._write(batch)
        self._written = free = [one for one in batch if one.change.id not in locked]
        for one in batch:
            if one.change.id in locked:
                self._keep(one)
        self._set_aside.update(locked)
        self._tell_locked(locked)
        if not free or await self._write(free):
            self._num_failures = 1  # the others are not to wait for long
        return False

    async def _locked(self, batch: Sequence[Finished]) -> Collection[JobId] | None:
        """Return the jobs whose rows somebody else has locked, or None if there is no answer."""
        try:
            locked = await self._pool.run(self._bounded(job_get_locked([*map(_ID, batch)])))
        except (DriverError, OperationTimeout) as error:
            if not _may_pass(error):
                return ()
            self._record_waiting(batch, error)
            return None
        return frozenset(locked)

    def _tell_locked(self, ids: Collection[JobId]) -> None:
        if not self._has_told_locked:
            self._has_told = self._has_told_locked = True
            fields = {"num_jobs": len(ids), "job_ids": _told_ids(sorted(ids))}
            logger.warning("completions locked", extra=fields)

    def _take(self) -> list[Finished]:
        if len(self._backlog) <= BATCH_SIZE:
            batch, self._backlog = list(self._backlog.values()), {}
            return batch
        ids = list(itertools.islice(self._backlog, BATCH_SIZE))
        return [self._backlog.pop(id) for id in ids]

    def _put_back(self, batch: Iterable[Finished]) -> None:
        """Keep changes for the next batch, before what was handed over meanwhile."""
        newer, self._backlog = self._backlog, {one.change.id: one for one in batch}
        for one in newer.values():
            self._keep(one)

    def _keep(self, one: Finished) -> None:
        former = self._backlog.setdefault(one.change.id, one)
        if former is not one:
            older, newer = sorted((former, one), key=_fetched_at)
            self._backlog[one.change.id] = newer
            _tell_too_late(older)

    async def _try(
        self, batch: Sequence[Finished], write: Callable[[Sequence[Finished]], Awaitable[None]]
    ) -> bool:
        try:
            await write(batch)
        except (DriverError, OperationTimeout) as error:
            if not _may_pass(error):
                return await self._try_one_by_one(batch, write, error)
            self._record_waiting(batch, error)
            return False
        return True

    def _record_waiting(self, batch: Sequence[Finished], error: MillhandError) -> None:
        self._put_back(batch)
        self._num_failures += 1
        level = logging.DEBUG if self._has_told else level_of(error)
        self._has_told |= level == logging.WARNING
        logger.log(level, "completions waiting", extra={"num_jobs": len(batch), **_error_fields(error)})

    async def _try_one_by_one(
        self,
        batch: Sequence[Finished],
        write: Callable[[Sequence[Finished]], Awaitable[None]],
        error: MillhandError,
    ) -> bool:
        """A row that is refused even alone is told of and stays running, for the rescuer."""
        if len(batch) == 1:
            row, state = batch[0].attempt.row, batch[0].change.state.value
            fields = {"job_id": row.id, "kind": row.kind, "state": state, **_error_fields(error)}
            logger.error("completion refused", extra=fields)
            return True
        for place, one in enumerate(batch, 1):
            if not await self._try([one], write):  # nobody would answer the others either
                self._put_back(batch[place:])
                return False
        return True

    async def _complete(self, batch: Sequence[Finished]) -> None:
        """Write plain successes; those that are not running any more go the long way, to learn what they are."""
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
            self._put_back(msgspec.structs.replace(one, is_plain=False) for one in missed)
            batch = [one for one in batch if one.change.id in found]
        self._tell_completed(batch)

    async def _set_state(self, batch: Sequence[Finished]) -> None:
        query = job_set_state_if_running_many([one.change for one in batch])
        rows = await self._pool.run(self._bounded(query))
        self._tell(batch, rows)

    def _bounded(self, query: Query[T]) -> Query[T]:
        """Return a query that does not outlast a stop's patience, by more than a moment."""
        if self._give_up_at is None:
            return query
        left = self._give_up_at - asyncio.get_running_loop().time()
        return query.within(min(query.timeout_seconds, max(left, LAST_SECONDS)))

    def _tell_completed(self, batch: Sequence[Finished]) -> None:
        self.num_by_kind[EventKind.JOB_COMPLETED] += len(batch)
        if self._subscriptions:
            at = self._monotonic()
            self._subscriptions.distribute(
                [_event(EventKind.JOB_COMPLETED, one, _completed_row(one), at) for one in batch]
            )

    def _tell(self, batch: Sequence[Finished], rows: Sequence[JobRow]) -> None:
        by_id = {row.id: row for row in rows}
        at = self._monotonic()
        events = []
        for one in batch:
            row = by_id.get(one.change.id)
            is_late = is_superseded(row, one.change)
            if is_late:
                _tell_too_late(one)
            # Who settled it by another hand is told of, unless that was another attempt, which has a teller of its own.
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
    """Return, in one line, what was to be written: states with the ids of their jobs, `SHOWN_MAX` of each."""
    by_state: dict[JobState, list[JobId]] = {}
    for change in changes:
        by_state.setdefault(change.state, []).append(change.id)
    return "; ".join(f"{state.value}: {_told_ids(ids)}" for state, ids in sorted(by_state.items()))


def _told_ids(ids: Sequence[JobId]) -> str:
    told = " ".join(str(id) for id in ids[:SHOWN_MAX])
    return told if len(ids) <= SHOWN_MAX else f"{told} and {len(ids) - SHOWN_MAX} more"


def _may_pass(error: MillhandError) -> bool:
    """Whether the same batch may well be taken another time: no connection, no answer, a deadlock, but not bad data."""
    return isinstance(error, OperationTimeout) or (isinstance(error, DriverError) and error.retryable)


def _error_fields(error: MillhandError) -> dict[str, str]:
    return {"error_type": type(error).__name__, "error": str(error)}


def _fetched_at(one: Finished) -> datetime:
    return one.change.attempted_at or ZERO  # None is for rows that no fetch has made


def _tell_too_late(one: Finished) -> None:
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
