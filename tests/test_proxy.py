"""A proxy that fails on command, in front of PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import pytest

from factory import GENEROUS_SECONDS
from proxy import BOTH, Direction, Proxy, proxied

ASKED = "SELECT 1"


@contextlib.asynccontextmanager
async def way(url: str) -> AsyncIterator[tuple[Proxy, asyncpg.Connection]]:
    """Open a proxy, and connect through it."""
    async with proxied(url) as proxy:
        connection = await asyncpg.connect(proxy.url)
        try:
            yield proxy, connection
        finally:
            connection.terminate()


async def test_proxy_without_faults_passes_everything_through(postgres_url: str) -> None:
    """The proxy passes answers through unchanged, large ones too, and counts each connection."""
    async with way(postgres_url) as (proxy, connection):
        direct = await asyncpg.connect(postgres_url)
        sql = "SELECT current_database(), session_user, repeat('x', 1000000)"
        answers = [await one.fetchrow(sql) for one in (connection, direct)]
        await direct.close()

    assert answers[0] == answers[1]
    assert proxy.num_connected == 1


@pytest.mark.slow
@pytest.mark.parametrize("directions", [BOTH, (Direction.TO_SERVER,), (Direction.TO_CLIENT,)])
async def test_proxy_that_is_stopped_up_delays_what_it_receives(
    postgres_url: str, directions: tuple[Direction, ...]
) -> None:
    """A stopped proxy closes no connection, and passes the query and its answer on when the fault ends."""
    async with way(postgres_url) as (proxy, connection):
        proxy.stop_up(directions)
        asked = asyncio.ensure_future(connection.fetchval(ASKED))
        done, _ = await asyncio.wait([asked], timeout=0.1)
        proxy.restore()
        answer = await asyncio.wait_for(asked, GENEROUS_SECONDS)

    assert (done, answer) == (set(), 1)


@pytest.mark.slow
async def test_proxy_delays_both_directions_when_it_is_slow(postgres_url: str) -> None:
    """A query and its answer each take the delay, and the delay stops as soon as the fault ends."""
    loop = asyncio.get_running_loop()
    async with way(postgres_url) as (proxy, connection):
        proxy.slow(0.05)
        began = loop.time()
        await connection.execute(ASKED)
        took = loop.time() - began
        proxy.slow(10 * GENEROUS_SECONDS)
        asked = asyncio.ensure_future(connection.execute(ASKED))
        await asyncio.wait([asked], timeout=0.05)
        proxy.restore()
        await asyncio.wait_for(asked, GENEROUS_SECONDS)

    assert took >= 0.1


async def test_proxy_resets_a_connection_that_it_is_making_when_it_is_cut(postgres_url: str) -> None:
    """A client that has connected is reset although the proxy has not reached the server yet."""
    is_cut = asyncio.Event()
    async with proxied(postgres_url) as proxy:
        connect = proxy._connect

        async def connect_late() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            await is_cut.wait()
            return await connect()

        proxy._connect = connect_late  # type: ignore[assignment]
        connecting = asyncio.ensure_future(asyncpg.connect(proxy.url))
        await proxy.wait_connected(1)
        proxy.cut()
        is_cut.set()
        with pytest.raises((OSError, asyncpg.PostgresError)):
            await asyncio.wait_for(connecting, GENEROUS_SECONDS)


async def test_proxy_resets_all_connections_until_the_cut_ends(postgres_url: str) -> None:
    """Open and new connections fail while the proxy is cut, and new ones work afterwards."""
    async with way(postgres_url) as (proxy, connection):
        proxy.cut()
        for lost in (connection.fetchval(ASKED), asyncpg.connect(proxy.url)):
            with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
                await asyncio.wait_for(lost, GENEROUS_SECONDS)
        proxy.restore()
        again = await asyncpg.connect(proxy.url)
        answer = await again.fetchval(ASKED)
        await again.close()
        async with asyncio.timeout(GENEROUS_SECONDS):
            await proxy.wait_connected(3)

    assert answer == 1


@pytest.mark.slow
async def test_proxy_limits_the_bytes_a_second_when_it_is_narrow(postgres_url: str) -> None:
    """At fifty thousand bytes a second, an answer of ten thousand bytes takes a fifth of a second."""
    loop = asyncio.get_running_loop()
    async with way(postgres_url) as (proxy, connection):
        proxy.narrow(50_000, [Direction.TO_CLIENT])
        began = loop.time()
        answer = await connection.fetchval("SELECT repeat('x', 10000)")
        took = loop.time() - began

    assert len(answer) == 10_000
    assert took >= 0.2


@pytest.mark.slow
async def test_proxy_that_forgets_leaves_old_connections_without_an_answer(postgres_url: str) -> None:
    """Old connections get no answer and new ones work; when the fault ends, only the server's end is closed."""
    async with way(postgres_url) as (proxy, connection):
        pid = connection.get_server_pid()
        proxy.forget()
        asked = asyncio.ensure_future(connection.fetchval(ASKED))
        again = await asyncio.wait_for(asyncpg.connect(proxy.url), GENEROUS_SECONDS)
        sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1"
        is_there = await again.fetchval(sql, pid)
        proxy.restore()
        async with asyncio.timeout(GENEROUS_SECONDS):
            while await again.fetchval(sql, pid):
                pass
        done, _ = await asyncio.wait([asked], timeout=0.1)
        await again.close()
        asked.cancel()

    assert (is_there, done) == (1, set())


@pytest.mark.slow
async def test_proxy_that_holds_delivers_the_query_of_a_closed_connection(postgres_url: str) -> None:
    """New connections work meanwhile, and PostgreSQL runs the held query when the fault ends."""
    told = asyncio.Queue[str]()
    async with way(postgres_url) as (proxy, connection):
        await connection.execute("SELECT pg_notify('nobody', '')")
        proxy.hold()
        asked = asyncio.ensure_future(connection.execute("SELECT pg_notify('late', 'here')"))
        await asyncio.wait([asked], timeout=0.1)
        connection.terminate()
        another = await asyncpg.connect(proxy.url)
        await another.add_listener("late", lambda *said: told.put_nowait(said[-1]))
        await another.execute(ASKED)
        num_before = told.qsize()
        proxy.restore()
        payload = await asyncio.wait_for(told.get(), GENEROUS_SECONDS)
        await another.close()
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            await asked

    assert (num_before, payload) == (0, "here")
