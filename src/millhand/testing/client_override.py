"""
Replaces the driver of a client by one that uses a test's clock and, if the test has one, its transaction.

Rule 1: a statement that depends on the time has a parameter `now`, which is None for the database's clock. The override
        fills in the test's instant, so the statements are those of production.
Rule 2: with a transaction, that transaction takes the place of the pool. A failed statement on a pool does not affect
        others, so each statement runs in a savepoint. Statements with an explicit `tx` have none, as in production.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import TypeVar

import msgspec

from millhand.client import Client
from millhand.core.clock import Clock, SystemClock
from millhand.core.errors import ConfigError
from millhand.db.driver.executor import DelegatingExecutor
from millhand.db.driver.protocol import Driver, Executor, Listener, has_open_transaction
from millhand.db.query import Copy, CopyOut, Query
from millhand.sync_client import SyncClient
from millhand.testing.clock import NotBeforeClock

T = TypeVar("T")

Now = Callable[[], datetime]
# The columns of copied rows that hold instants, and how `job_copy` writes the database's clock.
INSTANT_COLUMNS = ("created_at", "scheduled_at")
COPIED_NOW = b"now"

AnyClient = Client | SyncClient


class OverrideDriver:
    """A driver whose statements take the time from `now` and, with a `tx`, run in that transaction."""

    def __init__(self, driver: Driver, now: Now, tx: object | None) -> None:
        self._driver = driver
        self.now = now
        self.pool: Executor = ClockedExecutor(driver.pool, now)
        self.address = driver.address
        self.pool_size = driver.pool_size
        self.schema = driver.schema
        self.tx = tx
        if tx is not None:
            self.pool = SavepointPool(self.executor(tx))

    @property
    def has_open_transaction(self) -> bool:
        return self.tx is not None or has_open_transaction(self._driver)

    def executor(self, tx: object) -> Executor:
        return ClockedExecutor(self._driver.executor(tx), self.now)

    def listener(self) -> Listener:
        return self._driver.listener()

    async def open(self) -> None:
        """Open the driver. Raises: ConfigError in a transaction, in which no client can work."""
        if self.tx is not None:
            raise ConfigError(
                "client must not be started while it uses a test's transaction; start it before, without queues, or "
                "not at all"
            )
        await self._driver.open()

    async def close(self) -> None:
        await self._driver.close()


class ClockedExecutor(DelegatingExecutor):
    """Fills in `now` in every statement that would use the database's clock."""

    __slots__ = ("_executor", "_now")

    def __init__(self, executor: Executor, now: Now) -> None:
        self._executor = executor
        self._now = now

    async def run(self, query: Query[T]) -> T:
        if "now" in query.params and query.params["now"] is None:
            query = msgspec.structs.replace(query, params={**query.params, "now": self._now()})
        return await self._executor.run(query)

    async def copy(self, copy: Copy) -> int:
        return await self._executor.copy(msgspec.structs.replace(copy, chunks=_set_now(copy, self._now())))

    async def copy_out(self, copy: CopyOut) -> int:
        return await self._executor.copy_out(copy)

    def _enter(self, operation: str, timeout_seconds: float | None) -> AbstractAsyncContextManager[Executor]:
        return contextlib.nullcontext(self._executor)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        async with self._executor.begin() as executor:
            yield ClockedExecutor(executor, self._now)


class SavepointPool(DelegatingExecutor):
    """One transaction as a pool: each statement has a savepoint of its own, and waits for the one before."""

    __slots__ = ("_executor", "_lock")

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = asyncio.Lock()

    def _enter(self, operation: str, timeout_seconds: float | None) -> AbstractAsyncContextManager[Executor]:
        return self.begin()

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        async with self._lock, self._executor.begin() as executor:
            yield executor


@contextlib.contextmanager
def override_client(client: AnyClient, clock: Clock, tx: object | None) -> Iterator[None]:
    """Make `client` use `clock` and `tx` until the block ends. Raises: ConfigError for a client that works jobs."""
    if isinstance(client, Client) and client._engine is not None and client.config.queues:  # noqa: SLF001 - reads it
        raise ConfigError(
            f"client must not work jobs while a test does, got {client.id!r} which was started with queues; start it "
            "without, or not at all"
        )
    before = dict(vars(client))
    driver = OverrideDriver(client._driver, clock.now, tx)  # noqa: SLF001 - the driver to wrap
    client._bind_driver(driver, dataclasses.replace(client.config, clock=clock))  # noqa: SLF001 - made for tests
    changed = {name for name, value in vars(client).items() if before.get(name) is not value}
    try:
        yield
    finally:
        vars(client).update({name: before[name] for name in changed})


def transaction_executor(client: Client) -> Executor:
    """Return the test's transaction without savepoints, for statements that no other runs beside; or the pool."""
    driver = client._driver  # noqa: SLF001 - as above
    tx = getattr(driver, "tx", None)
    return driver.pool if tx is None else driver.executor(tx)


async def ensure_override(client: AnyClient, tx: object | None) -> AbstractContextManager[None]:
    """Return an override of `client` with its own clock and `tx`; none if it has one with the same `tx` already."""
    driver = client._driver  # noqa: SLF001 - as above
    if isinstance(driver, OverrideDriver) and (tx is None or tx is driver.tx):
        return contextlib.nullcontext()
    clock = client.config.clock
    if isinstance(clock, SystemClock):
        executor = driver.pool if tx is None else driver.executor(tx)
        [row] = await executor.fetch("SELECT clock_timestamp() AS now")
        clock = NotBeforeClock(clock, row["now"])
    return override_client(client, clock, tx)


async def _set_now(copy: Copy, now: datetime) -> AsyncIterable[bytes]:
    """Yield the rows with `now` in place of PostgreSQL's `now`."""
    instants = [copy.columns.index(name) for name in INSTANT_COLUMNS]
    async for chunk in copy.chunks:
        rows = [line.split(b"\t") for line in chunk.split(b"\n")]
        for row in rows:
            for column in instants if len(row) > 1 else ():
                row[column] = now.isoformat().encode() if row[column] == COPIED_NOW else row[column]
        yield b"\n".join(b"\t".join(row) for row in rows)
