"""A caller that cancels a call in its own transaction can roll back, or finds its connection closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import asyncpg
import psycopg
import pytest
import sqlalchemy
from random_turns import some_turns
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import MillhandError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.psycopg import PsycopgDriver

pytestmark = pytest.mark.slow
NUM_CALLS = 200
TURNS_MAX = 40  # of the event loop


class Caller(Protocol):
    """A caller's own connection of some library."""

    tx: Any

    async def begin(self) -> None: ...

    async def roll_back(self) -> None: ...

    async def answer(self, number: int) -> int:
        """Return what the server answers to a number, outside of the transaction."""
        ...


class AsyncpgCaller:
    def __init__(self, tx: Any) -> None:
        self.tx = tx

    async def begin(self) -> None:
        self._transaction = self.tx.transaction()
        await self._transaction.start()

    async def roll_back(self) -> None:
        await self._transaction.rollback()

    async def answer(self, number: int) -> int:
        assert not self.tx.is_in_transaction()
        return int(await self.tx.fetchval("SELECT $1::int", number))


class PsycopgCaller:
    def __init__(self, tx: psycopg.AsyncConnection[Any]) -> None:
        self.tx = tx

    async def begin(self) -> None:
        await self.tx.execute("SELECT 1")

    async def roll_back(self) -> None:
        await self.tx.rollback()

    async def answer(self, number: int) -> int:
        [answer] = await (await self.tx.execute("SELECT %s::int", [number])).fetchone()  # type: ignore[misc]
        await self.tx.rollback()
        return int(answer)


class SqlalchemyCaller:
    def __init__(self, tx: AsyncConnection) -> None:
        self.tx = tx

    async def begin(self) -> None:
        await self.tx.begin()

    async def roll_back(self) -> None:
        await self.tx.rollback()

    async def answer(self, number: int) -> int:
        answer = await self.tx.scalar(sqlalchemy.text("SELECT CAST(:number AS int)"), {"number": number})
        await self.tx.rollback()
        return int(answer)


@contextlib.asynccontextmanager
async def asyncpg_connection(url: str) -> AsyncIterator[Caller]:
    connection = await asyncpg.connect(url)
    try:
        yield AsyncpgCaller(connection)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def asyncpg_pool(url: str) -> AsyncIterator[Caller]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        yield AsyncpgCaller(connection)


@contextlib.asynccontextmanager
async def psycopg_connection(url: str) -> AsyncIterator[Caller]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield PsycopgCaller(connection)


@contextlib.asynccontextmanager
async def sqlalchemy_connection(url: str, dialect: str) -> AsyncIterator[Caller]:
    engine = create_async_engine(url.replace("postgresql", f"postgresql+{dialect}", 1))
    async with engine.connect() as connection:
        yield SqlalchemyCaller(connection)
    await engine.dispose()


CALLERS: Mapping[str, tuple[Any, Callable[[str], contextlib.AbstractAsyncContextManager[Caller]]]] = {
    "asyncpg": (AsyncpgDriver, asyncpg_connection),
    "asyncpg pool": (AsyncpgDriver, asyncpg_pool),
    "psycopg": (PsycopgDriver, psycopg_connection),
    "SQLAlchemy on asyncpg": (AsyncpgDriver, lambda url: sqlalchemy_connection(url, "asyncpg")),
    "SQLAlchemy on psycopg": (PsycopgDriver, lambda url: sqlalchemy_connection(url, "psycopg")),
}


@pytest.mark.parametrize("library", CALLERS)
async def test_cancelled_call_leaves_its_transaction_to_be_rolled_back(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture, library: str
) -> None:
    """After any cancelled call the rollback succeeds, nothing is inserted, and the next answer is the right one."""
    driver_type, connected = CALLERS[library]
    driver = driver_type(harness.url)
    client = Client(driver, Config())
    chosen = random.Random(NUM_CALLS)  # noqa: S311 - a test
    num_cancelled = 0
    gc.collect()  # logs what tasks of earlier tests have left
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(6 * GENEROUS), connected(harness.url) as caller:
            for number in range(NUM_CALLS):
                await caller.begin()
                call = asyncio.ensure_future(chosen.choice(calls_in(client, caller.tx))())
                await some_turns(call, chosen, TURNS_MAX)
                call.cancel()
                [end] = await asyncio.gather(call, return_exceptions=True)
                assert not isinstance(end, MillhandError)
                num_cancelled += isinstance(end, asyncio.CancelledError)
                await caller.roll_back()
                assert await caller.answer(number) == number
        gc.collect()

    assert num_cancelled > NUM_CALLS / 10
    assert (await harness.rows(), caplog.messages) == ([], [])


def calls_in(client: Client, tx: Any) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: client.insert(Act("x"), tx=tx),
        lambda: client.insert_many([(Act("x"), None)] * 20, tx=tx),
        lambda: client.insert_many_fast([Act("x" * 1_000)] * 500, tx=tx),
        lambda: client.jobs.list(tx=tx),
        lambda: client.queues.pause("*", tx=tx),
        lambda: client.request_resign(tx=tx),
    ]
