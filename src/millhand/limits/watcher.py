"""
Knows the limits of all queues for one client.

Rule 1: a read replaces the whole mapping. Reads follow the start, a notification that a queue's metadata changed, and each
        connect of the listener. A client without listener reads each minute, one without queues only while there are limits.
Rule 2: a worker writes what its code declares before its first read, again after each migration, and what River UI's form
        says as it reads it. Several clients may do so at once: the second write changes nothing.
Rule 3: without the tables of version 10 there are no limits. A worker that may not read them, by grants of before version
        10, logs that once and works its queues without limits. If there are limits, a worker needs version 14, because its
        statements of slots have the columns of halts; to declare one, it needs version 16, with notes.
Rule 4: the form counts for queues that this client works. Of a queue that only Go works, River Pro reads the same form.
Rule 5: a row that is invalid changes nothing: what was in force stays.
Rule 6: a limit whose row another transaction has locked is declared later, and so is one whose table a migration has
        dropped. Until then a fetch obeys the row that is there. Without a row it obeys what code declares: no job starts,
        because there is no row that would admit it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType

from millhand.core.clock import backoff_seconds
from millhand.core.errors import ConfigError, DriverError, MillhandError, SchemaError
from millhand.core.limit import Limit, QueueLimit
from millhand.core.log.logger import logger_of
from millhand.core.sqlstate import INSUFFICIENT_PRIVILEGE
from millhand.db.driver.protocol import Executor
from millhand.db.migration import migration_get_shape, migration_get_versions
from millhand.db.sql import LINE_MILLHAND
from millhand.engine.error_text import error_fields
from millhand.engine.lock_wait import AGAIN_SECONDS_MAX, Locked, LockWaits
from millhand.engine.service import IntervalService, WakeReason
from millhand.limits.form import has_news, limit_in_force, unwritten
from millhand.limits.store import ListedLimit, limit_declare, limit_list, limit_remove_for_form, limit_set

logger = logger_of(__name__)

VERSION = 16
REMEDY = "grant the rights that millhand migrate sql --grants prints"
NO_LIMITS: Mapping[str, QueueLimit] = MappingProxyType({})


class LimitWatcher(IntervalService):
    """
    Reads the limits; `on_changed` is called with each queue whose limit, or one of whose partitions, changed.

    `limits` and `obeyed` are never changed, only replaced. `obeyed` has also limits that code declares and the database does
    not have yet. `is_worker` is for a client with queues, `works` returns whether it works one, and `listens` is for a
    client that is notified of changes.
    """

    interval_seconds = 60.0

    def __init__(
        self,
        pool: Executor,
        *,
        declared: Mapping[str, Limit],
        is_worker: bool,
        listens: bool,
        locks: LockWaits | None = None,
        on_changed: Callable[[str], None],
        schema: str,
        works: Callable[[str], bool],
    ) -> None:
        super().__init__()
        self._declared = dict(declared)
        self._has_logged_unreadable = False
        self._has_read = False
        self._is_locked = False  # whether another transaction had a limit locked at the last pass
        self._is_worker = is_worker
        self._listens = listens
        self._locks = LockWaits(pool) if locks is None else locks
        self._read_lock = asyncio.Lock()
        self._logged: set[tuple[str, str]] = set()
        self._on_changed = on_changed
        self._pool = pool
        self._pending: dict[str, Limit] = {}  # what is declared, and not written yet
        self._requested: set[str] = set()
        self._schema = schema
        self._works = works
        self.limits: Mapping[str, QueueLimit] = NO_LIMITS
        self.obeyed: Mapping[str, QueueLimit] = NO_LIMITS

    async def run(self, started: Callable[[], None]) -> None:
        # The first read must succeed: a worker that does not know the limits would exceed them.
        await self.declare(self._declared)
        started()
        num_failures = num_locked = 0
        while True:
            num_locked = num_locked + 1 if self._is_locked else 0
            pause = backoff_seconds(num_failures) if num_failures else self.next_pause_seconds()
            if num_locked and not num_failures:
                pause = backoff_seconds(num_locked, first=0.25, ceiling=AGAIN_SECONDS_MAX)
            if await self.wake_event.wait(pause) is WakeReason.STOP:
                return
            num_failures = 0 if await self.try_pass() else num_failures + 1

    def next_pause_seconds(self) -> float | None:
        if self._listens or not (self._is_worker or self.limits):
            return None
        return self.interval_seconds

    def declare_again(self) -> None:
        """Write what code declares soon: a migration may have dropped it."""
        self._pending = {queue: limit for queue, limit in self._declared.items() if self._works(queue)}
        self.wake_event.set()

    def request_read(self, queue: str | None = None) -> None:
        """Read soon, and call `on_changed` for `queue` even if its limit is the same; nothing before the first read."""
        if not self._has_read:
            return
        if queue is not None:
            self._requested.add(queue)
        self.wake_event.set()

    async def run_once(self) -> None:
        """Write what is declared and not written yet, one limit after the other, and read."""
        self._is_locked = False
        for queue, limit in tuple(self._pending.items()):
            if not self.wake_event.is_stopping and not await self._declare({queue: limit}):
                break
        await self.read()

    async def declare(self, limits: Mapping[str, Limit]) -> None:
        """
        Write what code declares for queues, and read. What another transaction has locked is written later.

        Raises: SchemaError for a schema without version 16 if there is anything to declare, and without version 14 if there
        is anything to obey; DriverError.
        """
        self._declared |= limits
        self._pending |= limits
        if limits:
            try:
                await self._locks.run(limit_declare(limits))
            except Locked:  # the next pass finds which one
                self.wake_event.set()
            except DriverError as error:
                self._forget(limits)
                if not error.is_missing:
                    raise
                raise await self._schema_error() from error
            else:
                self._forget(limits)
        await self.read()

    async def _declare(self, limits: Mapping[str, Limit]) -> bool:
        """Write limits that are pending, or log why not. Return False if there are no tables."""
        [queue] = limits
        try:
            await self._locks.run(limit_declare(limits))
        except Locked as error:
            self._is_locked = True
            self._log_undeclared(queue, error)
        except DriverError as error:
            if not error.is_missing:
                raise
            self._log_undeclared(queue, await self._schema_error())
            return False  # until a migration, which is followed by `declare_again`
        else:
            self._forget(limits)
            logger.info("limit declared", extra={"queue": queue})
        return True

    def _forget(self, limits: Mapping[str, Limit]) -> None:
        """Forget limits that are pending no longer."""
        self._logged = {one for one in self._logged if one[0] not in limits}
        self._pending = {queue: limit for queue, limit in self._pending.items() if queue not in limits}

    async def _schema_error(self) -> SchemaError:
        shape = await self._pool.run(migration_get_shape())
        applied: frozenset[int] = frozenset()
        if shape.has_line:
            applied = await self._pool.run(migration_get_versions(LINE_MILLHAND, has_line=True))
        name = self._schema or shape.schema_name or ""
        found = max(applied, default=None)
        return SchemaError(name, expected=VERSION, found=found, line=LINE_MILLHAND, missing=[VERSION])

    async def read(self) -> None:
        """Replace `limits` with what the database has now. Raises: DriverError."""
        async with self._read_lock:  # an older answer must not replace a newer one
            self._has_read = True
            requested, self._requested = self._requested, set()
            try:
                limits = await self._read()
            except BaseException:
                self._requested |= requested
                raise
            undeclared = {
                queue: made
                for queue, one in self._pending.items()
                if queue not in limits and (made := unwritten(ListedLimit(queue=queue), one)) is not None
            }
            before, self.limits = self.limits, MappingProxyType(limits)
            obeyed, self.obeyed = self.obeyed, MappingProxyType(limits | undeclared)
        self.probe("read", self.limits)
        for queue in sorted(requested | obeyed.keys() | self.obeyed.keys()):
            is_changed = _values(before.get(queue)) != _values(limits.get(queue))
            if (
                queue in requested
                or is_changed
                or _values(obeyed.get(queue)) != _values(self.obeyed.get(queue))
            ):
                self._on_changed(queue)

    async def _read(self) -> dict[str, QueueLimit]:
        try:
            listed = await self._pool.run(limit_list())
        except DriverError as error:
            if error.sqlstate == INSUFFICIENT_PRIVILEGE:
                self._log_unreadable()
            elif not error.is_missing:
                raise
            return {}
        if self._is_worker and not all(one.has_halts for one in listed):
            raise await self._schema_error()
        found = {one.queue: await self._limit_of(one) for one in listed}
        return {queue: limit for queue, limit in found.items() if limit is not None}

    async def _limit_of(self, listed: ListedLimit) -> QueueLimit | None:
        if listed.fault is not None:
            self._log_ignored(listed.queue, listed.fault)
            return self.limits.get(listed.queue)
        if not (has_news(listed) and self._works(listed.queue)):
            return listed.row
        try:
            limit = limit_in_force(listed)
        except ConfigError as error:
            self._log_ignored(listed.queue, str(error))
            return listed.row
        if limit is None and listed.row is None:  # the form limits nothing
            return None
        return await self._obeyed(listed, limit)

    async def _obeyed(self, listed: ListedLimit, limit: Limit | None) -> QueueLimit | None:
        """Write what River UI's form says, and return the limit as written."""
        try:
            if limit is not None:
                return await self._locks.run(limit_set(listed.queue, limit, form=listed.form))
            await self._locks.run(limit_remove_for_form(listed.queue, obeyed_form=listed.obeyed_form))
        except Locked as error:
            self._is_locked = True
            self._log_undeclared(listed.queue, error)
            return listed.row if limit is None else unwritten(listed, limit)
        except DriverError as error:
            if error.is_missing:
                raise await self._schema_error() from error
            if error.sqlstate != INSUFFICIENT_PRIVILEGE:
                raise
        return unwritten(listed, limit)

    def _log_undeclared(self, queue: str, error: MillhandError) -> None:
        self.probe("undeclared", queue)
        if (queue, type(error).__name__) not in self._logged:
            self._logged.add((queue, type(error).__name__))
            logger.warning("limit not declared yet", extra={"queue": queue, **error_fields(error)})

    def _log_unreadable(self) -> None:
        # A client that only inserts needs no limits: the next fetch lets its jobs wait.
        if self._is_worker and not self._has_logged_unreadable:
            self._has_logged_unreadable = True
            logger.warning("limits not readable", extra={"remedy": REMEDY})

    def _log_ignored(self, queue: str, reason: str) -> None:
        if (queue, reason) not in self._logged:
            self._logged.add((queue, reason))
            logger.warning("concurrency setting ignored", extra={"queue": queue, "reason": reason})


def _values(limit: QueueLimit | None) -> Limit | None:
    return None if limit is None else limit.limit
