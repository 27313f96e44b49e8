"""Which connections of a pool stay out after they came back, and for whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from factory import GENEROUS_SECONDS
from millhand.driver import asyncpg_lease
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.asyncpg_lease import Leases
from millhand.errors import DriverError


@pytest.fixture
async def leases(postgres_url: str) -> AsyncIterator[Leases]:
    """Two connections at most, of a pool that is ours."""
    pool = await asyncpg.create_pool(postgres_url, min_size=0, max_size=2)
    leases = Leases(pool, keeps=True)
    yield leases
    await leases.close()
    async with asyncio.timeout(GENEROUS_SECONDS):
        await pool.close()


async def pid(leases: Leases) -> int:
    async with leases.lease() as connection:
        return await connection.fetchval("SELECT pg_backend_pid()")


def ended(connection: asyncpg.Connection) -> asyncio.Event:
    """Return what is set when a connection has ended."""
    event = asyncio.Event()
    connection.add_termination_listener(lambda _: event.set())
    return event


def num_idle(leases: Leases) -> int:
    return leases.pool.get_idle_size()


async def test_connection_that_comes_back_whole_stays_out(leases: Leases) -> None:
    """The next one gets the same connection, and the pool never sees it."""
    pids = {await pid(leases) for _ in range(3)}

    assert (len(pids), num_idle(leases)) == (1, 0)


async def test_connection_of_the_caller_s_pool_goes_back_at_once(postgres_url: str) -> None:
    """Others may wait for a pool that is not ours alone."""
    async with asyncpg.create_pool(postgres_url, min_size=0, max_size=1) as pool:
        driver = AsyncpgDriver(pool)
        await driver.open()
        await driver.pool.execute_script("SELECT 1")

        assert pool.get_idle_size() == 1


async def test_waiter_is_served_before_anything_stays_out(leases: Leases) -> None:
    """With all connections in use, whoever waits gets the first that comes back."""
    async with leases.lease(), leases.lease():
        waiter = asyncio.ensure_future(pid(leases))
        while not leases._num_waiting:  # noqa: ASYNC110 - a turn of the loop, of which nobody tells
            await asyncio.sleep(0)

    async with asyncio.timeout(GENEROUS_SECONDS):
        assert await waiter > 0


async def test_connection_that_something_was_raised_on_goes_the_long_way(leases: Leases) -> None:
    """What a statement has left behind is for asyncpg to see to, also when it is cancelled."""
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with leases.lease() as connection:
            await connection.fetch("SELECT 1/0")
    assert num_idle(leases) == 1

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), leases.lease() as connection:
            await connection.fetch("SELECT pg_sleep(60)")
    assert await pid(leases) > 0


async def test_connection_comes_back_without_a_transaction_that_asyncpg_knows_nothing_of(
    driver: AsyncpgDriver, postgres_url: str
) -> None:
    """
    A statement that was prepared and not executed leaves no locks, and no `now()`, to whoever is lent its connection.

    Its params were refused, or it was cancelled at any moment.
    """
    name = "left_open"
    sql = "SELECT FROM pg_stat_activity WHERE application_name = $1 AND xact_start IS NOT NULL"
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}application_name={name}"

    async def until_none_is_open() -> None:
        while await driver.pool.fetch(sql, [name]):
            pass

    ours = AsyncpgDriver(url, pool_size=1)
    await ours.open()
    async with asyncio.timeout(GENEROUS_SECONDS):
        with pytest.raises(DriverError):
            await ours.pool.fetch("SELECT $1::integer FROM river_job", ["no number"])
        await until_none_is_open()
        for num_turns in range(80):
            fetching = asyncio.ensure_future(ours.pool.fetch(f"SELECT {num_turns} FROM river_job"))
            for _ in range(num_turns):
                await asyncio.sleep(0)
            fetching.cancel()
            await asyncio.wait([fetching])
            await until_none_is_open()
    await ours.close()


async def test_connection_in_a_transaction_is_thrown_away(leases: Leases) -> None:
    """Nobody is lent somebody else's transaction."""
    async with leases.lease() as connection:
        end = ended(connection)
        await connection.execute("BEGIN")

    async with asyncio.timeout(GENEROUS_SECONDS):
        await end.wait()
    async with leases.lease() as connection:
        assert not connection.is_in_transaction()


async def test_connection_that_is_lost_meanwhile_is_not_lent(leases: Leases, postgres_url: str) -> None:
    """What ended while nobody used it is replaced, and its place in the pool is free."""
    async with leases.lease() as one, leases.lease() as two:
        ends = [ended(one), ended(two)]
        pids = [await connection.fetchval("SELECT pg_backend_pid()") for connection in (one, two)]
    killer = await asyncpg.connect(postgres_url)
    await killer.fetch("SELECT pg_terminate_backend(pid) FROM unnest($1::integer[]) AS pid", pids)
    await killer.close()
    async with asyncio.timeout(GENEROUS_SECONDS):
        for end in ends:
            await end.wait()

    async with leases.lease() as one, leases.lease() as two:
        others = {await connection.fetchval("SELECT pg_backend_pid()") for connection in (one, two)}
    assert len(others) == 2
    assert others.isdisjoint(pids)


async def test_connection_that_stays_unused_is_closed(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that nobody has needed for a while ends; one that was used in between stays."""
    monkeypatch.setattr(asyncpg_lease, "UNUSED_SECONDS", GENEROUS_SECONDS)  # by hand below
    async with leases.lease() as used, leases.lease() as unused:
        ends = [ended(used), ended(unused)]

    leases._close_unused()
    await pid(leases)
    leases._close_unused()

    async with asyncio.timeout(GENEROUS_SECONDS):
        await ends[1].wait()
    assert await pid(leases) > 0
    assert not ends[0].is_set()


async def test_clock_looks_for_what_stays_unused(leases: Leases, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anybody's doing, what is not needed ends."""
    monkeypatch.setattr(asyncpg_lease, "UNUSED_SECONDS", 0.01)
    async with leases.lease() as connection:
        end = ended(connection)

    async with asyncio.timeout(GENEROUS_SECONDS):
        await end.wait()

    assert leases.pool.get_size() == 0


async def test_each_connection_goes_back_now_and_then(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a connection is used, asyncpg sees it, and may renew it."""
    monkeypatch.setattr(asyncpg_lease, "NUM_LENT_MAX", 3)

    idle = []
    for _ in range(4):
        await pid(leases)
        idle.append(num_idle(leases))

    assert idle == [0, 0, 1, 0]


async def test_pool_closes_at_once_though_connections_are_out(leases: Leases) -> None:
    """What nobody uses goes back before the pool closes, and what comes back later does not stay out."""
    await pid(leases)
    async with leases.lease():
        await leases.close()
        closing = asyncio.ensure_future(leases.pool.close())

    async with asyncio.timeout(GENEROUS_SECONDS):
        await closing

    assert leases.pool.get_size() == 0
