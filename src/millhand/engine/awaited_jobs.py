"""
The jobs that callers of one client await: notifications and polls find their ends.

Rule 1: the answer is always read from the row. A notification only says which rows to read now.
Rule 2: notifications may be lost, and a client may have no listener. So each awaited job is also polled, after pauses that
        grow from 0.05 to 1 s.
Rule 3: one statement at a time reads all jobs that are due. The client sends at most 20 polls a second, however many
        jobs it awaits.
Rule 4: a look at notified jobs gathers more of them for half a millisecond for each awaited job, 5 ms at most. So one caller
        gets its answer at once, and many callers share a statement.
Rule 5: a job may end before the answer to its insert arrives. While inserts are in flight, the ids of unknown
        notifications are kept.
Rule 6: a wait that ends, in whatever way, leaves nothing. Without waits there is no task.

    wait ──▶ entries ──▶ job_get_ended ──▶ the row
                ▲  ▲
     notification  pause
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import operator
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import timedelta

from millhand.core.errors import (
    ConfigError,
    DriverError,
    MillhandError,
    NotFound,
    NotStarted,
    OperationTimeout,
    TooManyWaits,
    WaitTimeout,
)
from millhand.core.insert_opts import InsertOpts, InsertResult, opts_of_class
from millhand.core.job import AWAITED_KEY, JobId, JobRow
from millhand.core.log.context_fields import database_context
from millhand.core.log.logger import logger_of
from millhand.core.result import ResultType, check_returns
from millhand.db.driver.protocol import Driver, Executor, has_open_transaction
from millhand.db.driver.tx_executor import class_name
from millhand.db.query import Row, checked_id
from millhand.engine.store.job_result import job_get_ended
from millhand.engine.store.job_row import parse_job

logger = logger_of(__name__)

FIRST_PAUSE_SECONDS = 0.05
PAUSE_SECONDS_MAX = 1.0
PAUSE_GROWTH = 1.5
GATHER_SECONDS = 0.0005  # for each awaited job, from the last look on
GATHER_SECONDS_MAX = 0.005
NUM_AWAITED_MAX = 10_000  # of one client
NUM_EARLY_MAX = 10_000  # ids of notifications that may belong to inserts in flight
# Before its timeout, a wait looks once more, so that a lost notification does not fail a job that has ended.
LAST_LOOK_SECONDS = 0.1
_ONLY_AWAITED = InsertOpts(
    metadata={AWAITED_KEY: True}
)  # new options for each job would cost a fifth of its wait
_PAYLOAD = re.compile(r"[0-9]{1,19}(?: [0-9]{1,19})*")


class _Wait:
    """One caller's wait. A future of its own: a thousand callers on one future would make each other's ends slow."""

    __slots__ = ("_error", "_num_left", "_waiter")

    def __init__(self, num_left: int) -> None:
        self._error: Exception | None = None
        self._num_left = num_left
        self._waiter: asyncio.Future[None] | None = None

    async def is_late(self, seconds: float) -> bool:
        """Wait for the end of all jobs, and return whether it did not come in time. Raises: the first error of a job."""
        if self._num_left and self._error is None:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            # Not by asyncio.wait, which takes three times as long.
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
        if self._error is not None:
            raise self._error
        return self._num_left > 0

    def end_one(self) -> None:
        self._num_left -= 1
        if not self._num_left:
            self._wake()

    def fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Entry:
    """One awaited job, and its row once it has ended. Units: `look_at` is a time of the event loop."""

    __slots__ = ("look_at", "pause", "row", "waits")

    def __init__(self, look_at: float) -> None:
        self.look_at = look_at
        self.pause = FIRST_PAUSE_SECONDS
        self.row: Row = ()
        self.waits: set[_Wait] = set()


class AwaitedJobs:
    """
    The awaited jobs of one client.

    Concurrency: belongs to one event loop; `require_own_loop` raises in another.
    """

    def __init__(self, pool: Executor, require_own_loop: Callable[[], None] = lambda: None) -> None:
        self._away: MillhandError | None = None  # why the last statement had no answer
        self._early: set[JobId] = set()
        self._entries: dict[JobId, _Entry] = {}
        self._looked_at = -math.inf
        self._num_inserting = 0
        self._poll_at = 0.0
        self._polled_at = -math.inf
        self._pool = pool
        self._require_own_loop = require_own_loop
        self._task: asyncio.Task[None] | None = None
        self._urgent: set[JobId] = set()
        self._wake = asyncio.Event()

    @property
    def num_awaited(self) -> int:
        """How many jobs are awaited now."""
        return len(self._entries)

    async def wait_many(self, ids: Iterable[int], seconds: float) -> list[JobRow]:
        """
        Return the rows of jobs in their final states, in the order of `ids`.

        Raises: NotFound; WaitTimeout; TooManyWaits; NotStarted if the client stops; DriverError; ConfigError.
        """
        self._require_own_loop()
        ordered = checked_ids(ids)
        self._require_room(sum(id not in self._entries for id in set(ordered)))
        return await self._ended(*self._add(ordered, look_now=True), ordered, seconds)

    async def insert_and_wait(self, insert: Awaitable[InsertResult], seconds: float) -> JobRow:
        """Return the row of the job that `insert` inserts, in its final state. Raises: as `wait_many`, and as the insert."""
        self._num_inserting += 1
        try:
            result = await insert
            id = result.job.id
            wait, entries = self._add([id], look_now=id in self._early or result.unique_skipped_as_duplicate)
        finally:
            self._num_inserting -= 1
            if not self._num_inserting:
                self._early.clear()
        return (await self._ended(wait, entries, [id], seconds))[0]

    def require_room(self) -> None:
        """Raise TooManyWaits if the client can await no further job."""
        self._require_room(self._num_inserting + 1)

    def on_notification(self, payload: str) -> None:
        """Look for jobs that have ended; `payload` is their ids."""
        if not self._entries and not self._num_inserting:
            return
        if not _PAYLOAD.fullmatch(payload):
            logger.warning("notification ignored", extra={"error": "payload must be ids of jobs"})
            return
        ids = {JobId(int(id)) for id in payload.split(" ")}
        if self._num_inserting:
            self._keep_early([id for id in ids if id not in self._entries])
        self._look_soon(ids & self._entries.keys())

    def on_connected(self) -> None:
        """Look for all jobs: notifications may have been missed."""
        self._look_soon(self._entries.keys())

    async def stop(self) -> None:
        """End all waits with NotStarted, whether or not the database answers."""
        while (
            self._entries or self._task is not None
        ):  # again, for jobs whose inserts were answered meanwhile
            for id in list(self._entries):
                self._fail(id, NotStarted.by_stop(id))
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])

    def _require_room(self, num_more: int) -> None:
        if len(self._entries) + num_more > NUM_AWAITED_MAX:
            raise TooManyWaits(NUM_AWAITED_MAX)

    def _keep_early(self, ids: Collection[JobId]) -> None:
        if len(self._early) + len(ids) > NUM_EARLY_MAX:
            self._early.clear()  # the first polls find these jobs
        self._early.update(ids)

    # Waits.

    def _add(self, ids: Iterable[JobId], *, look_now: bool) -> tuple[_Wait, dict[JobId, _Entry]]:
        loop = asyncio.get_running_loop()
        entries: dict[JobId, _Entry] = {}
        distinct = dict.fromkeys(ids)
        wait = _Wait(len(distinct))
        for id in distinct:
            entry = self._entries.get(id)
            if entry is None:
                look_at = loop.time() + FIRST_PAUSE_SECONDS
                entry = self._entries[id] = _Entry(look_at)
                if look_at < self._poll_at or len(self._entries) == 1:
                    self._poll_at = look_at
                    self._wake.set()  # the task may sleep until a later poll of other jobs
            entry.waits.add(wait)
            entries[id] = entry
        self._start_task(loop)
        if look_now:
            self._look_soon(entries)
        return wait, entries

    async def _ended(
        self, wait: _Wait, entries: Mapping[JobId, _Entry], ids: Collection[JobId], seconds: float
    ) -> list[JobRow]:
        last_look = min(LAST_LOOK_SECONDS, seconds / 2)
        try:
            if await wait.is_late(seconds - last_look):
                self._poll_soon(_unended(entries))
                if await wait.is_late(last_look):
                    raise WaitTimeout(_unended(entries), seconds, len(entries)) from self._away
            # Each caller gets a row of its own, whose metadata no other caller changes.
            return [parse_job(entries[id].row) for id in ids]
        finally:
            self._discard(wait, entries)

    def _discard(self, wait: _Wait, entries: Mapping[JobId, _Entry]) -> None:
        for id, entry in entries.items():
            entry.waits.discard(wait)
            if not entry.waits and self._entries.get(id) is entry:
                del self._entries[id]
        if not self._entries:
            self._urgent.clear()
            self._wake.set()

    # The task.

    def _start_task(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._task is None and self._entries:
            self._wake = asyncio.Event()  # the client may have been started in another event loop before
            # Without the context of the caller, whose spans and log fields are not the task's.
            self._task = loop.create_task(self._look_for_all(), context=database_context())

    async def _look_for_all(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._entries:
                now = loop.time()
                look_at = self._gather_until() if self._urgent else self._poll_at
                if look_at > now:
                    await self._sleep(look_at - now)
                else:
                    self._looked_at = now
                    await self._look(self._take_due(now))
        except Exception as error:  # a row that cannot be read, for example: no wait may hang
            for id in list(self._entries):
                self._fail(id, error)
            raise
        finally:
            self._task = None

    def _gather_until(self) -> float:
        return self._looked_at + min(GATHER_SECONDS * len(self._entries), GATHER_SECONDS_MAX)

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _take_due(self, now: float) -> list[JobId]:
        urgent, self._urgent = self._urgent, set()
        due = urgent & self._entries.keys()
        if self._poll_at <= now:
            self._polled_at = now
            # A pause that is nearly over counts, so that few polls read many jobs.
            horizon = now + FIRST_PAUSE_SECONDS / 2
            for id, entry in self._entries.items():
                if entry.look_at <= horizon:
                    due.add(id)
                    entry.pause = min(entry.pause * PAUSE_GROWTH, PAUSE_SECONDS_MAX)
                    entry.look_at = now + entry.pause
            first = min(entry.look_at for entry in self._entries.values())
            self._poll_at = max(first, now + FIRST_PAUSE_SECONDS)
        return list(due)

    async def _look(self, ids: Collection[JobId]) -> None:
        if not ids:
            return
        try:
            ended = await self._pool.run(job_get_ended(ids))
        except MillhandError as error:
            if is_transient(error):
                self._away = error
                logger.debug("awaited jobs not read", extra={"num_jobs": len(ids), "error": str(error)})
                return
            for id in ids:
                self._fail(id, error)
            return
        self._away = None
        for id, row in ended:
            if row is None:
                self._fail(id, NotFound("job", id))
            elif (entry := self._entries.pop(id, None)) is not None:
                entry.row = row
                for wait in entry.waits:
                    wait.end_one()

    def _poll_soon(self, ids: Iterable[JobId]) -> None:
        """Poll as soon as the rate of polls allows: many waits may reach their timeouts, one after the other."""
        now = asyncio.get_running_loop().time()
        for id in ids:
            if (entry := self._entries.get(id)) is not None:
                entry.look_at = now
        self._poll_at = min(self._poll_at, max(now, self._polled_at + FIRST_PAUSE_SECONDS))
        self._wake.set()

    def _look_soon(self, ids: Collection[JobId]) -> None:
        if ids and not self._urgent:  # later ones come while the task gathers
            self._wake.set()
        self._urgent.update(ids)

    def _fail(self, id: JobId, error: Exception) -> None:
        entry = self._entries.pop(id, None)
        if entry is None:
            return
        for wait in entry.waits:
            wait.fail(error)
        self._wake.set()


def _unended(entries: Mapping[JobId, _Entry]) -> list[JobId]:
    return [id for id, entry in entries.items() if not entry.row]


def seconds_of(timeout: timedelta) -> float:
    """Return the timeout of a wait in seconds. Raises: ConfigError if it is no positive timedelta."""
    if not isinstance(timeout, timedelta) or timeout <= timedelta(0):
        raise ConfigError(
            f"timeout must be a positive timedelta, got {timeout!r}; write timedelta(seconds=…)"
        )
    return timeout.total_seconds()


def checked_wait(driver: Driver, *, returns: ResultType, timeout: timedelta, tx: object) -> float:
    """Return the seconds of an `insert_and_wait`. Raises: ConfigError if it may not be called so, or not there."""
    if tx is not None or has_open_transaction(driver):
        raise ConfigError(
            "insert_and_wait must be outside of a transaction, got one that is open; the job starts only after its "
            "commit, so insert the job, commit, and then call client.jobs.wait(id, timeout=…)"
        )
    check_returns(returns)
    return seconds_of(timeout)


def awaited_opts(args: object, opts: InsertOpts | None) -> InsertOpts | None:
    """Return `opts` with the mark of an awaited job in its metadata."""
    if opts is not None and not isinstance(opts, InsertOpts):
        return opts  # the insert refuses it
    given = None if opts is None else opts.metadata
    if given is None:
        class_opts = opts_of_class(args)
        given = None if class_opts is None else class_opts.metadata
    if opts is None and not given:
        return _ONLY_AWAITED
    return dataclasses.replace(opts or InsertOpts(), metadata={**(given or {}), AWAITED_KEY: True})


def checked_ids(ids: Iterable[int]) -> list[JobId]:
    """
    Return the ids as a list.

    Raises: TypeError for what is no id; NotFound for one that no job has, which would fail the statement of all waits.
    """
    return [JobId(checked_id("job", _number_of(id))) for id in ids]


def _number_of(id: object) -> int:
    try:
        return operator.index(id)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"id must be that of a job, got {class_name(id)}; write result.job.id for what insert returns"
        ) from None


def is_transient(error: MillhandError) -> bool:
    """Return whether another poll may be answered, as after a lost connection."""
    return isinstance(error, OperationTimeout) or (isinstance(error, DriverError) and error.retryable)
