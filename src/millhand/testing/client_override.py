"""
A client that speaks by a test's clock and, where the test has a transaction, inside it.

Rule 1: a query is a value, and whatever depends on the time has `now` among its parameters, None for the database's
        clock. So it is enough to put the test's instant in; nothing is set on a connection, and no statement of a
        worker's differs from those of production.
Rule 2: in a test's transaction the pool is that transaction. What was said through the pool could fail without harm to
        others, so there each word has a savepoint; what was said with `tx=` has none, here as there.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from millhand.client import Client
from millhand.clock import Clock, SystemClock
from millhand.driver.protocol import Driver, Executor, Listener
from millhand.errors import ConfigError
from millhand.store.query import TIMEOUT_SECONDS, Copy, Query
from millhand.sync_client import SyncClient
from millhand.testing.clock import NotBeforeClock

T = TypeVar("T")

Now = Callable[[], datetime]
# What is dated of rows that are copied, and how `job_copy` asks for the database's clock.
INSTANTS = ("created_at", "scheduled_at")
COPIED_NOW = b"now"

AnyClient = Client | SyncClient


class OverrideDriver:
    """A driver whose statements are dated by `now` and, with a `tx`, whose pool is that transaction."""

    def __init__(self, driver: Driver, now: Now, tx: object | None) -> None:
        self._driver = driver
        self.now = now
        self.pool: Executor = ClockedExecutor(driver.pool, now)
        self.schema = driver.schema
        self.tx = tx
        if tx is not None:
            self.pool = SavepointPool(self.executor(tx))

    def executor(self, tx: object) -> Executor:
        """Return an executor in a transaction of the caller's, the test's or another. Raises: as the driver's."""
        return ClockedExecutor(self._driver.executor(tx), self.now)

    def listener(self) -> Listener:
        """Return a listener of the driver's."""
        return self._driver.listener()

    async def open(self) -> None:
        """Open the driver. Raises: ConfigError in a transaction, in which no client can work."""
        if self.tx is not None:
            raise ConfigError(
                "client must not be started while it speaks in a test's transaction; start it before, without queues, "
                "or not at all"
            )
        await self._driver.open()

    async def close(self) -> None:
        """Close the driver."""
        await self._driver.close()


class ClockedExecutor:
    """An executor that puts `now` into every statement that would take the database's."""

    __slots__ = ("_executor", "_now")

    def __init__(self, executor: Executor, now: Now) -> None:
        self._executor = executor
        self._now = now

    async def run(self, query: Query[T]) -> T:
        """Run `query` by the test's clock."""
        if "now" in query.params and query.params["now"] is None:
            query = msgspec.structs.replace(query, params={**query.params, "now": self._now()})
        return await self._executor.run(query)

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        """Begin a transaction, or a savepoint."""
        return self._begin()

    async def copy(self, copy: Copy) -> int:
        """Copy rows into a table by the test's clock."""
        return await self._executor.copy(msgspec.structs.replace(copy, chunks=_dated(copy, self._now())))

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """Run SQL that is not ours, as it is."""
        return await self._executor.fetch(sql, params, timeout_seconds=timeout_seconds)

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """Run several statements, as they are."""
        await self._executor.execute_script(sql, timeout_seconds=timeout_seconds)

    @contextlib.asynccontextmanager
    async def _begin(self) -> AsyncIterator[Executor]:
        async with self._executor.begin() as executor:
            yield ClockedExecutor(executor, self._now)


class SavepointPool:
    """
    One transaction that passes for a pool: any number of words at once, which wait for each other.

    Each has a savepoint, so that one that fails costs the others nothing.
    """

    __slots__ = ("_executor", "_lock")

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = asyncio.Lock()

    async def run(self, query: Query[T]) -> T:
        """Run `query` in a savepoint."""
        async with self._begin() as executor:
            return await executor.run(query)

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        """Begin a savepoint."""
        return self._begin()

    async def copy(self, copy: Copy) -> int:
        """Copy rows into a table, in a savepoint."""
        async with self._begin() as executor:
            return await executor.copy(copy)

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """Run SQL that is not ours, in a savepoint."""
        async with self._begin() as executor:
            return await executor.fetch(sql, params, timeout_seconds=timeout_seconds)

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """Run several statements, in a savepoint."""
        async with self._begin() as executor:
            await executor.execute_script(sql, timeout_seconds=timeout_seconds)

    @contextlib.asynccontextmanager
    async def _begin(self) -> AsyncIterator[Executor]:
        async with self._lock:
            # Psycopg begins with the first statement, and would commit a block that was begun before that.
            await self._executor.fetch("SELECT 1")
            async with self._executor.begin() as executor:
                yield executor


@contextlib.contextmanager
def override_client(client: AnyClient, clock: Clock, tx: object | None) -> Iterator[None]:
    """
    Have everything that `client` says dated by `clock` and, with `tx`, said in that transaction; then as before.

    Raises: ConfigError for a client that works jobs at the moment, by a clock of its own.
    """
    if isinstance(client, Client) and client._engine is not None and client.config.queues:  # noqa: SLF001 - asks, no more
        raise ConfigError(
            f"client must not work jobs while a test does, got {client.id!r} which was started with queues; start it "
            "without, or not at all"
        )
    before = dict(vars(client))
    driver = OverrideDriver(client._driver, clock.now, tx)  # noqa: SLF001 - so the client itself speaks
    client._bind_driver(driver, dataclasses.replace(client.config, clock=clock))  # noqa: SLF001 - made for that
    spoken = {name for name, value in vars(client).items() if before.get(name) is not value}
    try:
        yield
    finally:
        vars(client).update({name: before[name] for name in spoken})


def transaction_executor(client: Client) -> Executor:
    """Return the test's transaction itself, for what nobody else says at the same time; without one, the pool."""
    driver = client._driver  # noqa: SLF001 - as above
    tx = getattr(driver, "tx", None)
    return driver.pool if tx is None else driver.executor(tx)


@contextlib.asynccontextmanager
async def ensure_override(client: Client, tx: object | None) -> AsyncIterator[None]:
    """Bind `client` as it is, by its own clock; nothing changes for one that is bound already, unless `tx` is another."""
    driver = client._driver  # noqa: SLF001 - as above
    if isinstance(driver, OverrideDriver) and (tx is None or tx is driver.tx):
        yield
        return
    clock = client.config.clock
    if isinstance(clock, SystemClock):
        executor = driver.pool if tx is None else driver.executor(tx)
        [row] = await executor.fetch("SELECT clock_timestamp() AS now")
        clock = NotBeforeClock(clock, row["now"])
    with override_client(client, clock, tx):
        yield


async def _dated(copy: Copy, now: datetime) -> AsyncIterable[bytes]:
    """Give the rows with the test's instant in place of PostgreSQL's word for its own."""
    instants = [copy.columns.index(name) for name in INSTANTS]
    async for chunk in copy.chunks:
        rows = [line.split(b"\t") for line in chunk.split(b"\n")]
        for row in rows:
            for column in instants if len(row) > 1 else ():
                row[column] = now.isoformat().encode() if row[column] == COPIED_NOW else row[column]
        yield b"\n".join(b"\t".join(row) for row in rows)
