"""
Writes the state changes of jobs in batches.

Rule 1: the completer writes or logs every change that it takes. After a failure, it keeps the change and tries again.
Rule 2: while one batch is written, the next one collects. So batches grow with the load, and no change waits for a timer.
Rule 3: plain successes have a faster statement. If it does not find a job, the full statement writes that job's change.
Rule 4: if the database refuses a batch for its contents, each row is written alone, so one bad row blocks no other.
Rule 5: a change counts for its own attempt only. If the job was rescued or fetched again, the completer only logs it.
Rule 6: after a failure, and during a stop, the completer first writes the rows that no other transaction has locked.
Rule 7: a plain success whose row is not kept is deleted. If the answer is lost, a row that is gone counts as deleted by it.
Rule 8: jobs that a caller awaits are never plain. The statement that writes a batch of them notifies the callers' clients.
Rule 9: jobs of queues with rules are written apart, by the statements of the rules. Then `on_released` is called.
        Plain successes of one such queue are written by its next fetch, which may start other jobs in their place.
Rule 10: what `end_writers` must write of a batch is in the transaction that ends its jobs. After a failure, they write
         nothing, so that they hold up no other job.
Rule 11: a change is kept while a table is gone. While those of rules are, jobs are written as if there were no rules.

                 hand_over          ┌─ job_delete_completed_many ──────┐
    executor ──▶ backlog ──▶ batch ─┼─ job_complete_many ──────────────┼──▶ events
                 (back-pressure)    ├─ job_set_state_if_running_many ──┤
                                    └─ the fetch of a queue with rules ┘

Source: River v0.51.2, internal/jobcompleter/job_completer.go `BatchCompleter`. Model: models/rescue.tla, `WriteOutcome`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from operator import attrgetter, sub
from typing import NamedTuple, TypeVar

import msgspec

from millhand.core.clock import Clock, backoff_seconds
from millhand.core.errors import DriverError, MillhandError, OperationTimeout
from millhand.core.event import EventKind
from millhand.core.job import AWAITED_KEY, ClientId, JobId, JobRow, JobState
from millhand.core.log.logger import logger_of
from millhand.core.transition import StateChange, event_kind_of, is_same_attempt, is_superseded
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.attempt import Attempt, format_ids
from millhand.engine.awaited_jobs import is_transient
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.completed_retention import CompletedRetention
from millhand.engine.end_writer import (
    EndsOf,
    EndWriter,
    Wanted,
    ends_of_completed,
    ends_of_rows,
    run_and_write,
    wanted_of,
)
from millhand.engine.error_text import error_fields
from millhand.engine.outage import level_of
from millhand.engine.pending_change import (
    Backlog,
    EndedJobs,
    Pending,
    ended_jobs,
    format_outcomes,
    log_too_late,
)
from millhand.engine.queue_rules import EndedByRules, QueueRules
from millhand.engine.service import Service, WakeEvent, WakeReason
from millhand.engine.store.job import (
    job_complete_many,
    job_delete_completed_many,
    job_get_locked,
    job_set_state_if_running_many,
)
from millhand.engine.subscription import Subscriptions

logger = logger_of(__name__)

T = TypeVar("T")

_Write = Callable[[Sequence[Pending]], Awaitable[None]]
_CompleteAndFetch = Callable[[str, EndedJobs], "Awaitable[list[JobId] | None] | None"]
_Group = tuple[Sequence[Pending], _Write]

BATCH_SIZE = 5_000  # River's
BACKLOG_FULL = 10_000  # River's; at this size attempts keep their slots, until half of it is written
# How long a stop waits for an unreachable database: long enough for its restart, short enough for most supervisors.
FLUSH_SECONDS = 10.0
LAST_SECONDS = 1.0  # the least timeout of a write, at the end of that time
_ATTEMPT = attrgetter("attempt")
_HANDED_OVER_AT = attrgetter("handed_over_at")
_ID = attrgetter("change.id")
_METADATA = attrgetter("attempt.row.metadata")


class _Writers(NamedTuple):
    """What writes plain successes, deletes them, and writes all other changes."""

    complete: _Write
    delete: _Write
    set_state: _Write


class Completer(Service):
    """
    Writes the changes of one client, and calls `on_available` with each job that becomes available again.

    `complete_and_fetch` completes jobs with the next fetch of a queue, if that comes soon, and returns the ids that it
    completed. `on_released` is called with the queues with `rules` whose jobs a batch has ended.

    Without `retention`, the rows of all completed jobs are kept. `on_deleted` is called with each batch that was deleted.

    Concurrency: any attempt may call `hand_over`; one batch is written at a time.
    """

    def __init__(
        self,
        pool: Executor,
        client_id: ClientId,
        *,
        clock: Clock,
        complete_and_fetch: _CompleteAndFetch = lambda _queue, _ended: None,
        end_writers: Sequence[EndWriter] = (),
        metrics: ClientMetrics | None = None,
        on_available: Callable[[JobRow], None],
        on_deleted: Callable[[Sequence[Pending]], None] = lambda _deleted: None,
        on_released: Callable[[Collection[str]], None] = lambda _queues: None,
        retention: CompletedRetention | None = None,
        rules: QueueRules | None = None,
        subscriptions: Subscriptions,
    ) -> None:
        super().__init__()
        self._backlog = Backlog()
        self._backlog_limit: float = BACKLOG_FULL
        self._client_id = client_id
        self._complete_and_fetch = complete_and_fetch
        self._end_writers = end_writers
        self._flush_until: float | None = None  # set by a stop
        self._has_logged_failure = False
        self._has_logged_locked = False
        self._has_logged_undeletable = False
        self._has_room = asyncio.Event()
        self._in_flight: Sequence[Pending] = ()
        self._is_pause_over = False
        self._locked_ids: set[JobId] = set()  # whose rows were locked at the last check
        self._metrics = ClientMetrics() if metrics is None else metrics
        self._monotonic = clock.monotonic
        self._num_failures = 0
        self._on_available = on_available
        self._on_deleted = on_deleted
        self._on_released = on_released
        self._perhaps_deleted: set[JobId] = set()  # by a statement whose answer was lost
        self._pool = pool
        self._retention = retention
        self._rules = QueueRules() if rules is None else rules
        self._subscriptions = subscriptions
        self._writers = _Writers(self._complete, self._delete, self._set_state)
        self.num_by_kind = dict.fromkeys(EventKind, 0)

    def count_kept(self) -> int:
        """Return how many changes wait or are in flight."""
        return len(self._backlog) + len(self._in_flight)

    def is_pending(self, id: JobId) -> bool:
        return id in self._backlog or any(one.change.id == id for one in self._in_flight)

    def hand_over(self, change: StateChange, attempt: Attempt) -> Awaitable[object] | None:
        """
        Take a change, to write it soon. If the backlog is full, return an awaitable for the attempt to wait on.

        Of two attempts of one job, the one fetched later counts.
        """
        is_plain = change.state is JobState.COMPLETED and not change.metadata
        one, backlog = Pending(change, attempt, self._monotonic(), is_plain), self._backlog
        if backlog.setdefault(change.id, one) is not one:
            backlog.add(one)
        self.wake_event.set()
        if len(backlog) < self._backlog_limit:
            return None
        self._has_room.clear()
        return self._has_room.wait()

    def end_back_pressure(self) -> None:
        """Let no attempt wait from now on. A stop calls this after the last fetch."""
        self._backlog_limit = math.inf
        self._has_room.set()

    def retry_now(self) -> None:
        """End the pause after a failure."""
        self._is_pause_over = True
        self.wake_event.set()

    async def run(self, started: Callable[[], None]) -> None:
        started()
        while await self._wait_for_change() is not WakeReason.STOP:
            await self.write_backlog()
        await self._flush()

    async def write_backlog(self) -> None:
        """Write the backlog, until a write fails. The test kit calls it in place of `run`."""
        while self._backlog and await self._write_batch():
            pass

    async def _wait_for_change(self) -> WakeReason:
        """Wait for a change to write. After a failure, wait for the pause, which only `retry_now` and a stop end."""
        if not self._num_failures:
            return await self.wake_event.wait()
        loop = asyncio.get_running_loop()
        until = loop.time() + backoff_seconds(self._num_failures, first=0.25, ceiling=8.0)
        while not self._is_pause_over and (seconds := until - loop.time()) > 0:
            if await self.wake_event.wait(seconds) is WakeReason.STOP:
                return WakeReason.STOP
        self._is_pause_over = False
        return WakeReason.TIMEOUT

    async def _flush(self) -> None:
        """Write the backlog, and retry failed writes for `FLUSH_SECONDS`."""
        loop, num_failures = asyncio.get_running_loop(), 0
        flush_until = self._flush_until = loop.time() + FLUSH_SECONDS
        while self._backlog:
            if await self._write_batch():
                continue
            if loop.time() >= flush_until:
                break
            num_failures += 1
            # A new event, because the service's own returns STOP at once.
            await WakeEvent().wait(backoff_seconds(num_failures, first=0.25, ceiling=2.0))
        if self._backlog:
            outcomes = format_outcomes(one.change for one in self._backlog.values())
            logger.error("completions lost", extra={"num_jobs": len(self._backlog), "outcomes": outcomes})
            self._backlog.clear()
        self._has_room.set()

    async def _write_batch(self) -> bool:
        """Write one batch of the backlog. Return whether the database took all of it."""
        batch = self._in_flight = self._backlog.take(BATCH_SIZE)
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

    async def _write(self, batch: Sequence[Pending]) -> bool:
        groups = self._groups(batch)
        for place, (group, write) in enumerate(groups, 1):
            if group and not await self._try_write(group, write):
                self._backlog.put_first(one for rest, _ in groups[place:] for one in rest)
                return False
        return True

    def _groups(self, batch: Sequence[Pending]) -> list[_Group]:
        """Return the parts of a batch that are written together, and what writes each."""
        if not self._rules.queues or (ended := self._rules.ended_by_rules(batch)) is None:
            return self._groups_of(batch, self._writers)
        # The others first: a user's transaction that changes a rule holds up none of them.
        return self._groups_of(ended.others, self._writers) + self._groups_of(
            ended.jobs, self._writers_by(ended)
        )

    def _groups_of(self, batch: Sequence[Pending], writers: _Writers) -> list[_Group]:
        others = [one for one in batch if not one.is_plain]
        plain = [one for one in batch if one.is_plain] if others else batch
        groups = [(plain, writers.complete), (others, writers.set_state)]
        if self._retention is not None and not self._retention.keeps_all and plain:
            kept, deleted = list[Pending](), list[Pending]()
            for one in plain:
                (kept if self._retention.keeps(one.attempt.row) else deleted).append(one)
            groups[:1] = [(deleted, writers.delete), (kept, writers.complete)]
        return groups

    def _writers_by(self, ended: EndedByRules) -> _Writers:
        complete = partial(self._complete, query_of=ended.complete)
        delete = partial(self._delete, query_of=ended.delete, complete=complete)
        return _Writers(
            partial(self._complete_by_fetch, partial(self._release, complete)),
            partial(self._release, delete),
            partial(self._release, partial(self._set_state, query_of=ended.set_state)),
        )

    async def _release(self, write: _Write, batch: Sequence[Pending]) -> None:
        try:
            await write(batch)
        except DriverError as error:
            self._rules.on_refused(error)
            raise
        self._on_released({one.attempt.row.queue for one in batch})

    async def _complete_by_fetch(self, write: _Write, batch: Sequence[Pending]) -> None:
        """Let the next fetch write plain successes of one queue with rules, if it comes soon; else write them."""
        completed = self._completed_by_fetch(batch)
        ids = None if completed is None else await completed
        if ids is None:
            await write(batch)
            return
        self._emit_completed(self._written(batch, ids))

    def _completed_by_fetch(self, batch: Sequence[Pending]) -> Awaitable[list[JobId] | None] | None:
        queue, *others = {one.attempt.row.queue for one in batch}
        if others or self._num_failures or self._flush_until is not None or self._wanted_of(batch):
            return None
        return self._complete_and_fetch(queue, ended_jobs(batch))

    async def _write_unlocked(self, batch: Sequence[Pending]) -> bool:
        """Write the changes whose rows are not locked, and put the others at the end of the backlog."""
        locked = await self._get_locked(batch)
        if locked is None:
            return False
        self._locked_ids.difference_update(map(_ID, batch))
        if not locked:
            return await self._write(batch)
        self._in_flight = free = [one for one in batch if one.change.id not in locked]
        for one in batch:
            if one.change.id in locked:
                self._backlog.add(one)
        self._locked_ids.update(locked)
        self._log_locked(locked)
        if not free or await self._write(free):
            self._num_failures = 1  # a short pause before the locked rows are tried again
        return False

    async def _get_locked(self, batch: Sequence[Pending]) -> Collection[JobId] | None:
        """Return the jobs whose rows other transactions have locked, or None if the database does not answer."""
        try:
            locked = await self._pool.run(self._bounded(job_get_locked([*map(_ID, batch)])))
        except (DriverError, OperationTimeout) as error:
            if not is_transient(error):
                return ()
            self._record_waiting(batch, error)
            return None
        return frozenset(locked)

    def _log_locked(self, ids: Collection[JobId]) -> None:
        if not self._has_logged_locked:
            self._has_logged_failure = self._has_logged_locked = True
            text = format_ids(sorted(ids))
            logger.warning("completions locked", extra={"num_jobs": len(ids), "job_ids": text})

    async def _try_write(self, batch: Sequence[Pending], write: _Write) -> bool:
        try:
            await write(batch)
        except (DriverError, OperationTimeout) as error:
            if not is_transient(error):
                return await self._try_one_by_one(batch, write, error)
            return self._record_waiting(batch, error)
        return True

    def _record_waiting(self, batch: Sequence[Pending], error: MillhandError) -> bool:
        self._backlog.put_first(batch)
        self._is_pause_over = False
        self._num_failures += 1
        level = logging.DEBUG if self._has_logged_failure else level_of(error)
        self._has_logged_failure |= level == logging.WARNING
        logger.log(level, "completions waiting", extra={"num_jobs": len(batch), **error_fields(error)})
        return False

    async def _try_one_by_one(self, batch: Sequence[Pending], write: _Write, error: MillhandError) -> bool:
        """Write each row of a refused batch alone. Log a refused row, and leave it running: a rescuer will rescue it."""
        if len(batch) == 1:
            if isinstance(error, DriverError) and error.is_missing:
                return self._record_waiting(batch, error)
            logger.error("completion refused", extra={**batch[0].fields(), **error_fields(error)})
            return True
        for place, one in enumerate(batch, 1):
            if not await self._try_write([one], write):  # the database does not answer
                self._backlog.put_first(batch[place:])
                return False
        return True

    async def _complete(
        self, batch: Sequence[Pending], query_of: Callable[..., Query[list[JobId]]] = job_complete_many
    ) -> None:
        """Write plain successes. The full statement then takes the jobs that no longer run, because it returns rows."""
        query = query_of(client_id=self._client_id, **msgspec.structs.asdict(ended_jobs(batch)))
        written = await self._run(query, batch, ends_of_completed)
        self._emit_completed(self._written(batch, written))

    async def _delete(
        self,
        batch: Sequence[Pending],
        query_of: Callable[..., Query[list[JobId]]] = job_delete_completed_many,
        complete: _Write | None = None,
    ) -> None:
        """Delete plain successes, or complete them if the database refuses that, as for a foreign key of another table."""
        ended = ended_jobs(batch)
        query = query_of(client_id=self._client_id, ids=ended.ids, attempted_ats=ended.attempted_ats)
        try:
            written = await self._pool.run(self._bounded(query))
        except (DriverError, OperationTimeout) as error:
            if is_transient(error):
                self._perhaps_deleted.update(map(_ID, batch))
                raise
            self._log_undeletable(batch, error)
            await (self._complete if complete is None else complete)(batch)
            return
        self._emit_deleted(self._written(batch, written))

    def _emit_deleted(self, deleted: Sequence[Pending]) -> None:
        self._on_deleted(deleted)
        self._emit_completed(deleted)

    def _written(self, batch: Sequence[Pending], ids: Collection[JobId]) -> Sequence[Pending]:
        """Return the part of a batch that was written. The full statement will write the rest."""
        self._perhaps_deleted.difference_update(ids)
        if len(ids) == len(batch):
            return batch
        found = frozenset(ids)
        self._backlog.put_first(
            msgspec.structs.replace(one, is_plain=False) for one in batch if one.change.id not in found
        )
        return [one for one in batch if one.change.id in found]

    def _log_undeletable(self, batch: Sequence[Pending], error: MillhandError) -> None:
        level = logging.DEBUG if self._has_logged_undeletable else logging.WARNING
        self._has_logged_undeletable = True
        logger.log(level, "completed jobs kept", extra={"num_jobs": len(batch), **error_fields(error)})

    async def _set_state(
        self,
        batch: Sequence[Pending],
        query_of: Callable[..., Query[list[JobRow]]] = job_set_state_if_running_many,
    ) -> None:
        awaited_ids = [one.change.id for one in batch if AWAITED_KEY in one.attempt.row.metadata]
        query = query_of([one.change for one in batch], awaited_ids=awaited_ids)
        rows = await self._run(query, batch, ends_of_rows)
        if self._perhaps_deleted:
            batch = self._without_deleted(batch, rows)
        self._emit(batch, rows)

    async def _run(self, query: Query[T], batch: Sequence[Pending], ends_of: EndsOf[T]) -> T:
        """Write a batch, with what the end writers must write of it."""
        bounded = self._bounded(query)
        wanted = () if self._num_failures else self._wanted_of(batch)
        if not wanted:
            return await self._pool.run(bounded)
        return await run_and_write(self._pool, bounded, wanted, ends_of, self._seconds_left)

    def _wanted_of(self, batch: Sequence[Pending]) -> Sequence[Wanted]:
        """Return what the end writers must write of a batch; nothing, nearly always, as for jobs without metadata."""
        return wanted_of(self._end_writers, batch) if any(map(_METADATA, batch)) else ()

    def _without_deleted(self, batch: Sequence[Pending], rows: Sequence[JobRow]) -> Sequence[Pending]:
        """Emit the events of jobs that a statement deleted whose answer was lost; return the other changes."""
        gone = self._perhaps_deleted.intersection(map(_ID, batch)).difference(row.id for row in rows)
        self._perhaps_deleted.difference_update(map(_ID, batch))
        self._emit_deleted([one for one in batch if one.change.id in gone])
        return [one for one in batch if one.change.id not in gone]

    def _bounded(self, query: Query[T]) -> Query[T]:
        """During a stop, return a query that times out when the flush ends, but not before `LAST_SECONDS`."""
        if self._flush_until is None:
            return query
        return query.within(min(query.timeout_seconds, self._seconds_left()))

    def _seconds_left(self) -> float:
        flush_until = math.inf if self._flush_until is None else self._flush_until
        return max(flush_until - asyncio.get_running_loop().time(), LAST_SECONDS)

    def _emit_completed(self, batch: Sequence[Pending]) -> None:
        self.num_by_kind[EventKind.JOB_COMPLETED] += len(batch)
        if not batch:
            return
        at = self._monotonic()
        waited = [*map(partial(sub, at), map(_HANDED_OVER_AT, batch))]
        self._metrics.add_completed([*map(_ATTEMPT, batch)], waited)
        if self._subscriptions:
            self._subscriptions.distribute(
                [one.event(EventKind.JOB_COMPLETED, one.completed_row(), at) for one in batch]
            )

    def _emit(self, batch: Sequence[Pending], rows: Sequence[JobRow]) -> None:
        by_id = {row.id: row for row in rows}
        at = self._monotonic()
        events = []
        for one in batch:
            row = by_id.get(one.change.id)
            is_late = is_superseded(row, one.change)
            if is_late:
                log_too_late(one)
            # Emit an event if another client finalized the job. Another attempt emits its own event.
            if row is None or (is_late and not (row.state.is_finalized and is_same_attempt(row, one.change))):
                continue
            kind = event_kind_of(row.state, one.change)
            if kind is not None:
                self.num_by_kind[kind] += 1
                self._metrics.add_finished(one.attempt, kind, row.state, at - one.handed_over_at)
                events.append(one.event(kind, row, at))
                if row.state is JobState.AVAILABLE:
                    self._on_available(row)
        if self._subscriptions:
            self._subscriptions.distribute(events)
