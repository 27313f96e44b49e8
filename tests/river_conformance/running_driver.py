"""The driver of a running client: it knows its listeners, and can hold a fetch."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, cast

from millhand.core.errors import ConnectionLost
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.asyncpg_listener import AsyncpgListener
from millhand.db.driver.protocol import Executor
from millhand.db.query import TIMEOUT_SECONDS, Copy, CopyOut, Query

T = TypeVar("T")

FETCHES = ("job_get_available", "job_get_available_after", "job_get_available_counted")
LISTENER = """
SELECT count(*) AS count FROM pg_stat_activity WHERE pid = ANY ($1::int[])
"""
CUT_LISTENER = """
SELECT count(pg_terminate_backend(pid)) AS count FROM pg_stat_activity WHERE pid = ANY ($1::int[])
"""


class RunningListener(AsyncpgListener):
    """A listener that names its server process once it listens."""

    is_listening = False

    @property
    def pid(self) -> int | None:
        """The server's process, or None if this listener does not listen."""
        if self._connection is None or self.is_lost or not self.is_listening:
            return None
        pid: int = self._connection.get_server_pid()
        return pid

    async def connect(self) -> None:
        self.is_listening = False
        await super().connect()

    async def listen(self, topic: str, receive: Callable[[str], None]) -> None:
        await super().listen(topic, receive)
        self.is_listening = True


class RunningDriver(AsyncpgDriver):
    """A driver whose listeners are known, and whose first fetch of jobs waits for `hold`, if it is given."""

    def __init__(
        self, url: str, schema: str, *, hold: Callable[[], Awaitable[None]] | None, pool_size: int
    ) -> None:
        super().__init__(url, schema, pool_size=pool_size)
        self._held = None if hold is None else HeldPool(super().pool, hold)
        self._listeners: list[RunningListener] = []

    @property
    def pool(self) -> Executor:
        return super().pool if self._held is None else self._held

    def listener(self) -> RunningListener:
        listener = RunningListener(self._connect, self._release, self.schema)
        self._listeners.append(listener)
        return listener

    async def count_listeners(self) -> int:
        """Return how many of the listeners' server processes run."""
        return await self._count(LISTENER)

    async def cut_listeners(self) -> int:
        """End the listeners' server processes, and return how many."""
        return await self._count(CUT_LISTENER)

    async def _count(self, sql: str) -> int:
        pids = [pid for one in self._listeners if (pid := one.pid) is not None]
        for _ in range(self._pool_size):  # each connection of the pool may have been cut
            with contextlib.suppress(ConnectionLost):
                return await self._count_once(sql, pids)
        return await self._count_once(sql, pids)

    async def _count_once(self, sql: str, pids: Sequence[int]) -> int:
        rows = await super().pool.fetch(sql, [pids])
        count: int = rows[0]["count"]
        return count


class HeldPool:
    """A pool that returns its first fetched jobs only after `hold`."""

    def __init__(self, pool: Executor, hold: Callable[[], Awaitable[None]]) -> None:
        self._hold: Callable[[], Awaitable[None]] | None = hold
        self._pool = pool

    async def run(self, query: Query[T]) -> T:
        answer = await self._pool.run(query)
        hold, fetched = self._hold, cast(Any, answer)
        if hold is not None and query.name in FETCHES and getattr(fetched, "jobs", fetched):
            self._hold = None
            await hold()
        return answer

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        return self._pool.begin()

    async def copy(self, copy: Copy) -> int:
        return await self._pool.copy(copy)

    async def copy_out(self, copy: CopyOut) -> int:
        return await self._pool.copy_out(copy)

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        return await self._pool.fetch(sql, params, timeout_seconds=timeout_seconds)

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        await self._pool.execute_script(sql, timeout_seconds=timeout_seconds)
