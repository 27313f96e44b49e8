"""Claims about Millhand's own pools: how many connections they open, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from client_harness import Act, ClientHarness, harness  # noqa: F401 - a fixture
from factory import GENEROUS_SECONDS
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.worker import Workers
from millhand.db.driver import pool_growth
from millhand.db.driver.detect import driver_at
from millhand.db.driver.pool_growth import PoolGrowth
from millhand.db.driver.protocol import Driver

APPLICATION = "millhand_growth"
NUM_OPEN = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{APPLICATION}'"
SCHEMES = ["postgresql", "postgresql+psycopg"]


@pytest.fixture
async def observer(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is not counted."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


def url_of(scheme: str, postgres_url: str) -> str:
    rest = postgres_url.partition("://")[2]
    return f"{scheme}://{rest}{'&' if '?' in rest else '?'}application_name={APPLICATION}"


async def until_open(observer: asyncpg.Connection, low: int, high: int) -> None:
    """Return when the server has as many connections of the pool as that."""
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not low <= await observer.fetchval(NUM_OPEN) <= high:
            pass


@pytest.fixture(params=SCHEMES)
async def own(request: pytest.FixtureRequest, postgres_url: str) -> AsyncIterator[Driver]:
    """An open driver with a pool of its own."""
    driver = driver_at(url_of(request.param, postgres_url))
    await driver.open()
    yield driver
    await driver.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_idle_worker_has_three_connections(
    scheme: str,
    harness: ClientHarness,  # noqa: F811
    observer: asyncpg.Connection,
    postgres_url: str,
) -> None:
    """A worker that leads, listens and has worked many jobs at once has three connections within seconds."""
    workers = Workers()

    @workers.add(kind="act")
    async def act(what: str) -> None: ...

    config = Config(workers=workers, queues={"default": 100})
    async with Client(url_of(scheme, postgres_url), config) as client:
        with client.subscribe() as events:
            await asyncio.gather(*(client.insert(Act("x")) for _ in range(100)))
            for _ in range(100):
                await harness.next(events)
        await until_open(observer, 3, 3)


@pytest.mark.slow
async def test_pool_grows_by_need_and_shrinks_within_seconds(
    own: Driver, observer: asyncpg.Connection
) -> None:
    """Statements that wait at once get a connection each, and two connections are left soon after their end."""
    async with asyncio.timeout(GENEROUS_SECONDS):
        await observer.execute("SELECT pg_advisory_lock(7)")
        waiting = [
            asyncio.ensure_future(
                own.pool.execute_script("SELECT pg_advisory_lock_shared(7), pg_advisory_unlock_shared(7)")
            )
            for _ in range(6)
        ]
        await until_open(observer, 6, 6)
        await observer.execute("SELECT pg_advisory_unlock(7)")
        await asyncio.gather(*waiting)
        await until_open(observer, 2, 2)


async def test_short_statements_need_two_connections(
    own: Driver, observer: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst of short statements opens no third connection."""
    monkeypatch.setattr(pool_growth, "GROW_SECONDS", GENEROUS_SECONDS)

    await asyncio.gather(*(own.pool.execute_script("SELECT 1") for _ in range(50)))

    assert await observer.fetchval(NUM_OPEN) == 2


async def test_cancelled_task_leaves_its_turn_to_the_next() -> None:
    """A task that is cancelled before or after it was admitted holds no place in the pool."""
    growth = PoolGrowth(lambda: 2, 2)
    await growth.enter()
    await growth.enter()
    first, second, third = tasks = [asyncio.ensure_future(growth.enter()) for _ in range(3)]
    await asyncio.sleep(0)

    first.cancel()  # before
    growth.leave()
    second.cancel()  # after
    async with asyncio.timeout(GENEROUS_SECONDS):
        await third
        ended = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(one) for one in ended] == [asyncio.CancelledError, asyncio.CancelledError, type(None)]
    growth.leave()
    growth.leave()
    await growth.enter()
    await growth.enter()


async def test_pool_never_grows_beyond_its_size() -> None:
    """However long tasks wait, no more than the pool may have are admitted."""
    growth = PoolGrowth(lambda: 2, 3)
    tasks = [asyncio.ensure_future(growth.enter()) for _ in range(6)]
    await asyncio.sleep(0)

    for _ in range(6):
        growth._grow()  # the timer's call
    async with asyncio.timeout(GENEROUS_SECONDS):
        await tasks[2]

    assert [task.done() for task in tasks] == [True, True, True, False, False, False]
    for task in tasks:
        task.cancel()
