"""
Knows the limits of all queues for one client.

Rule 1: a read replaces the whole mapping. Reads follow the start, a notification that a queue's metadata changed, and each
        connect of the listener. A client without listener reads each minute, one without queues only while there are limits.
Rule 2: a worker writes what its code declares before its first read, and what River UI's form says as it reads it.
        Several clients may do so at once: the second write changes nothing.
Rule 3: without the tables of version 10 there are no limits. A worker that may not read them, by grants of before version
        10, logs that once and works its queues without limits. If there are limits, a worker needs version 14, because its
        statements of slots have the columns of halts.
Rule 4: the form counts for queues that this client works. Of a queue that only Go works, River Pro reads the same form.
Rule 5: a row that is invalid changes nothing: what was in force stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType

from millhand.clock import backoff_seconds
from millhand.driver.protocol import Executor
from millhand.errors import ConfigError, DriverError, SchemaError
from millhand.limit import Limit, QueueLimit
from millhand.limit_form import has_news, limit_in_force, unwritten
from millhand.log.logger import logger_of
from millhand.runtime.service import IntervalService, WakeReason
from millhand.store.limit import ListedLimit, limit_declare, limit_list, limit_remove_for_form, limit_set
from millhand.store.migration import migration_get_shape, migration_get_versions

logger = logger_of(__name__)

VERSION = 14
LINE = "millhand"
INSUFFICIENT_PRIVILEGE = "42501"
REMEDY = "grant the rights that millhand migrate sql --grants prints"
# PostgreSQL's codes for: no such table, no such column, no such schema.
_MISSING = frozenset({"42P01", "42703", "3F000"})
NO_LIMITS: Mapping[str, QueueLimit] = MappingProxyType({})


class LimitWatcher(IntervalService):
    """
    Reads the limits; `on_changed` is called with each queue whose limit, or one of whose partitions, changed.

    `limits` is never changed, only replaced. `is_worker` is for a client with queues, `works` returns whether it works one,
    and `listens` is for a client that is notified of changes.
    """

    interval_seconds = 60.0

    def __init__(
        self,
        pool: Executor,
        *,
        declared: Mapping[str, Limit],
        is_worker: bool,
        listens: bool,
        on_changed: Callable[[str], None],
        schema: str,
        works: Callable[[str], bool],
    ) -> None:
        super().__init__()
        self._declared = dict(declared)
        self._has_logged_unreadable = False
        self._has_read = False
        self._is_worker = is_worker
        self._listens = listens
        self._read_lock = asyncio.Lock()
        self._logged: set[tuple[str, str]] = set()
        self._on_changed = on_changed
        self._pool = pool
        self._requested: set[str] = set()
        self._schema = schema
        self._works = works
        self.limits: Mapping[str, QueueLimit] = NO_LIMITS

    async def run(self, started: Callable[[], None]) -> None:
        # The first read must succeed: a worker that does not know the limits would exceed them.
        await self.declare(self._declared)
        started()
        num_failures = 0
        while True:
            pause = backoff_seconds(num_failures) if num_failures else self.next_pause_seconds()
            if await self.wake_event.wait(pause) is WakeReason.STOP:
                return
            num_failures = 0 if await self.try_pass() else num_failures + 1

    def next_pause_seconds(self) -> float | None:
        if self._listens or not (self._is_worker or self.limits):
            return None
        return self.interval_seconds

    def request_read(self, queue: str | None = None) -> None:
        """Read soon, and call `on_changed` for `queue` even if its limit is the same; nothing before the first read."""
        if not self._has_read:
            return
        if queue is not None:
            self._requested.add(queue)
        self.wake_event.set()

    async def run_once(self) -> None:
        await self.read()

    async def declare(self, limits: Mapping[str, Limit]) -> None:
        """
        Write what code declares for queues, and read.

        Raises: SchemaError for a schema without version 14, if there is anything to declare or to obey; DriverError.
        """
        if limits:
            try:
                await self._pool.run(limit_declare(limits))
            except DriverError as error:
                if error.sqlstate not in _MISSING:
                    raise
                raise await self._schema_error() from error
        await self.read()

    async def _schema_error(self) -> SchemaError:
        shape = await self._pool.run(migration_get_shape())
        applied: frozenset[int] = frozenset()
        if shape.has_line:
            applied = await self._pool.run(migration_get_versions(LINE, has_line=True))
        name = self._schema or shape.schema_name or ""
        found = max(applied, default=None)
        return SchemaError(name, expected=VERSION, found=found, line=LINE, missing=[VERSION])

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
            before, self.limits = self.limits, MappingProxyType(limits)
        self.probe("read", self.limits)
        for queue in sorted(requested | before.keys() | limits.keys()):
            if queue in requested or _values(before.get(queue)) != _values(limits.get(queue)):
                self._on_changed(queue)

    async def _read(self) -> dict[str, QueueLimit]:
        try:
            listed = await self._pool.run(limit_list())
        except DriverError as error:
            if error.sqlstate == INSUFFICIENT_PRIVILEGE:
                self._log_unreadable()
            elif error.sqlstate not in _MISSING:
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
                return await self._pool.run(limit_set(listed.queue, limit, form=listed.form))
            await self._pool.run(limit_remove_for_form(listed.queue, obeyed_form=listed.obeyed_form))
        except DriverError as error:
            if error.sqlstate in _MISSING:
                raise await self._schema_error() from error
            if error.sqlstate != INSUFFICIENT_PRIVILEGE:
                raise
        return unwritten(listed, limit)

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
