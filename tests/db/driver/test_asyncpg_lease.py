"""Claims about leases: which connections of a pool are kept, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from factory import GENEROUS_SECONDS
from millhand.core.errors import DriverError
from millhand.db.driver import asyncpg_lease
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.asyncpg_lease import Leases


@pytest.fixture
async def leases(postgres_url: str) -> AsyncIterator[Leases]:
    """Leases of a pool of Millhand's own with at most three connections."""
    pool = await asyncpg.create_pool(postgres_url, min_size=0, max_size=3)
    leases = Leases(pool, keeps=True)
    yield leases
    await leases.close()
    async with asyncio.timeout(GENEROUS_SECONDS):
        await pool.close()


async def pid(leases: Leases) -> int:
    async with leases.lease() as connection:
        return await connection.fetchval("SELECT pg_backend_pid()")


def ended(connection: asyncpg.Connection) -> asyncio.Event:
    """Return an event that is set when a connection ends."""
    event = asyncio.Event()
    connection.add_termination_listener(lambda _: event.set())
    return event


def num_idle(leases: Leases) -> int:
    return leases.pool.get_idle_size()


async def test_connection_without_an_error_is_kept(leases: Leases) -> None:
    """The next lease gets the same connection, without the pool."""
    pids = {await pid(leases) for _ in range(3)}

    assert (len(pids), num_idle(leases)) == (1, 0)


async def test_connection_of_the_caller_s_pool_is_released_at_once(postgres_url: str) -> None:
    """The application may wait for its own pool, so Millhand keeps no connection of it."""
    async with asyncpg.create_pool(postgres_url, min_size=0, max_size=1) as pool:
        driver = AsyncpgDriver(pool)
        await driver.open()
        await driver.pool.execute_script("SELECT 1")

        assert pool.get_idle_size() == 1


@pytest.mark.slow
async def test_waiter_gets_the_first_connection(leases: Leases) -> None:
    """With all connections in use, a waiter gets the first that comes back."""
    async with leases.lease(), leases.lease(), leases.lease():
        waiter = asyncio.ensure_future(pid(leases))
        await asyncio.sleep(0)
        assert not waiter.done()

    async with asyncio.timeout(GENEROUS_SECONDS):
        assert await waiter > 0


async def test_connection_with_an_error_is_released(leases: Leases) -> None:
    """After an error or a cancellation asyncpg's own release cleans the connection."""
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with leases.lease() as connection:
            await connection.fetch("SELECT 1/0")
    assert num_idle(leases) == 1

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), leases.lease() as connection:
            await connection.fetch("SELECT pg_sleep(60)")
    assert await pid(leases) > 0


@pytest.mark.slow
async def test_connection_comes_back_without_a_hidden_transaction(
    driver: AsyncpgDriver, postgres_url: str
) -> None:
    """
    A statement that was prepared but not executed leaves no transaction on its connection.

    Its params were invalid, or it was cancelled at any moment.
    """
    name = "left_open"
    sql = "SELECT FROM pg_stat_activity WHERE application_name = $1 AND xact_start IS NOT NULL"
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}application_name={name}"

    async def until_none_is_open() -> None:
        while await driver.pool.fetch(sql, [name]):
            pass

    driver_of_one = AsyncpgDriver(url, pool_size=1)
    await driver_of_one.open()
    async with asyncio.timeout(GENEROUS_SECONDS):
        with pytest.raises(DriverError):
            await driver_of_one.pool.fetch("SELECT $1::integer FROM river_job", ["no number"])
        await until_none_is_open()
        for num_turns in range(80):
            fetching = asyncio.ensure_future(driver_of_one.pool.fetch(f"SELECT {num_turns} FROM river_job"))
            for _ in range(num_turns):
                await asyncio.sleep(0)
            fetching.cancel()
            await asyncio.wait([fetching])
            await until_none_is_open()
    await driver_of_one.close()


async def test_connection_in_a_transaction_is_terminated(leases: Leases) -> None:
    """A transaction that a lease left open is not given to the next one."""
    async with leases.lease() as connection:
        end = ended(connection)
        await connection.execute("BEGIN")

    async with asyncio.timeout(GENEROUS_SECONDS):
        await end.wait()
    async with leases.lease() as connection:
        assert not connection.is_in_transaction()


async def test_connection_lost_while_unused_is_replaced(leases: Leases, postgres_url: str) -> None:
    """Connections that ended while unused are replaced, and their slots in the pool are free."""
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


@pytest.mark.slow
async def test_connection_that_stays_unused_is_closed(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third connection that is not used for a while ends; those that were used in between stay."""
    monkeypatch.setattr(
        asyncpg_lease, "UNUSED_SECONDS", GENEROUS_SECONDS
    )  # the test calls _close_unused itself
    async with leases.lease() as used, leases.lease() as also_used, leases.lease() as unused:
        ends = [ended(used), ended(also_used), ended(unused)]

    leases._close_unused()
    await pid(leases)
    leases._close_unused()

    async with asyncio.timeout(GENEROUS_SECONDS):
        await ends[2].wait()
    assert await pid(leases) > 0
    assert not ends[0].is_set()
    assert not ends[1].is_set()


@pytest.mark.slow
async def test_unused_connection_is_closed_by_a_timer(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any further lease an unused connection ends, and two stay."""
    monkeypatch.setattr(asyncpg_lease, "UNUSED_SECONDS", 0.01)
    async with leases.lease(), leases.lease(), leases.lease() as connection:
        end = ended(connection)

    async with asyncio.timeout(GENEROUS_SECONDS):
        await end.wait()

    assert leases.pool.get_size() == 2


async def test_each_connection_goes_back_now_and_then(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every so often a used connection goes back to asyncpg, which may replace it."""
    monkeypatch.setattr(asyncpg_lease, "NUM_LEASES_MAX", 3)

    idle = []
    for _ in range(4):
        await pid(leases)
        idle.append(num_idle(leases))

    assert idle == [0, 0, 1, 0]


async def test_pool_closes_although_connections_are_in_use(leases: Leases) -> None:
    """Unused connections are released before the pool closes, and used ones are not kept."""
    await pid(leases)
    async with leases.lease():
        await leases.close()
        closing = asyncio.ensure_future(leases.pool.close())

    async with asyncio.timeout(GENEROUS_SECONDS):
        await closing

    assert leases.pool.get_size() == 0
