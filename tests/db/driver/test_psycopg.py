from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg_pool
import pytest
from conformance_values import GENEROUS_SECONDS

from millhand import Client, Config, EventKind, Workers
from millhand.core.errors import ConfigError, ConnectionLost, OperationTimeout, PoolClosed
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.psycopg import PsycopgDriver
from proxy import proxied


@pytest.mark.slow
async def test_client_works_on_a_pool_of_psycopg_s(schema_driver: AsyncpgDriver, postgres_url: str) -> None:
    """A client inserts, listens, fetches and completes on psycopg, and the caller's commit wakes it."""
    workers = Workers()
    worked: asyncio.Queue[str] = asyncio.Queue()

    @workers.add()
    async def greet(name: str) -> None:
        worked.put_nowait(name)

    config = Config(
        fetch_poll_interval=timedelta(minutes=5),
        queues={"default": 2},
        schema=schema_driver.schema,
        workers=workers,
    )
    pool = psycopg_pool.AsyncConnectionPool(postgres_url, min_size=1, max_size=8, open=False)
    async with pool, Client(pool, config) as client, asyncio.timeout(GENEROUS_SECONDS):
        completed = client.subscribe(EventKind.JOB_COMPLETED)
        await client.insert(greet.args("one"))
        await anext(aiter(completed))
        async with pool.connection() as connection:
            await client.insert(greet.args("two"), tx=connection)
        await anext(aiter(completed))
        copied = await client.insert_many_fast([greet.args("three"), greet.args("four")])
        names = {await worked.get() for _ in range(4)}

    assert (copied, names) == (2, {"one", "two", "three", "four"})


@pytest.mark.slow
async def test_client_on_psycopg_survives_an_outage(schema_driver: AsyncpgDriver, postgres_url: str) -> None:
    """After all connections were cut and new ones failed for a while, the client works and listens again."""
    workers = Workers()

    @workers.add()
    async def greet(name: str) -> None: ...

    config = Config(
        fetch_poll_interval=timedelta(minutes=5),
        queues={"default": 2},
        schema=schema_driver.schema,
        workers=workers,
    )
    async with (
        asyncio.timeout(60),
        proxied(postgres_url) as proxy,
        Client(PsycopgDriver(proxy.url, schema_driver.schema), config) as client,
    ):
        completed = aiter(client.subscribe(EventKind.JOB_COMPLETED))
        await client.insert(greet.args("before"))
        await anext(completed)
        num_before = proxy.num_connected
        proxy.cut()
        with pytest.raises((ConnectionLost, OperationTimeout)):
            await client.insert(greet.args("never"))
        await proxy.wait_connected(num_before + 2)
        proxy.restore()
        async with Client(postgres_url, Config(schema=schema_driver.schema)) as other:
            await other.insert(greet.args("after"))
        event = await anext(completed)

    assert event.job is not None
    assert event.job.args == {"name": "after"}


async def test_closing_leaves_the_caller_s_pool_of_psycopg_open(postgres_url: str) -> None:
    """The caller's pool stays open; if the caller closes it, the error operations that it is closed."""
    pool = psycopg_pool.AsyncConnectionPool(postgres_url, min_size=1, max_size=1, open=False)
    await pool.open()
    driver = PsycopgDriver(pool)
    await driver.open()

    await driver.close()
    async with pool.connection() as connection:
        still = await (await connection.execute("SELECT 1")).fetchone()
    await driver.open()
    await pool.close()

    assert still == (1,)
    with pytest.raises(PoolClosed, match=r"^SELECT 1 must succeed, got the pool .* is already closed$"):
        await driver.pool.fetch("SELECT 1")


async def test_missing_server_is_a_lost_connection_of_psycopg(tmp_path: Path) -> None:
    """Without a server `open` raises at once an error that can be retried."""
    driver = PsycopgDriver(f"postgresql://x@/nothing?host={tmp_path}")

    with pytest.raises(ConnectionLost) as lost:
        await driver.open()

    assert (lost.value.operation, lost.value.retryable) == ("connect", True)


async def test_cancelled_open_of_psycopg_leaves_no_tasks(postgres_url: str) -> None:
    """A cancelled `open` leaves no tasks that go on connecting."""
    async with proxied(postgres_url) as proxy, asyncio.timeout(GENEROUS_SECONDS):
        before = asyncio.all_tasks()
        opening = asyncio.create_task(PsycopgDriver(proxy.url).open())
        await proxy.wait_connected(1)  # the probe of the URL
        proxy.refuse()
        await proxy.wait_connected(3)
        opening.cancel()
        await asyncio.wait([opening])

        left = {task.get_name() for task in asyncio.all_tasks() - before}
        assert opening.cancelled()
        assert not [name for name in left if name.startswith("millhand")]


async def test_url_that_psycopg_cannot_read_is_an_error_without_its_password() -> None:
    """The error of `open` does not show the password."""
    driver = PsycopgDriver("postgresql://u:secret@h:5432/d?nonsense=1")

    with pytest.raises(ConfigError) as refused:
        await driver.open()

    assert str(refused.value).startswith("database URL must be like 'postgresql://user@host:5432/name', got ")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("given", [None, 5, object()])
def test_pool_of_another_type_is_an_error(given: Any) -> None:
    """An object that is neither a URL nor a pool is an error that lists what is accepted."""
    with pytest.raises(TypeError) as refused:
        PsycopgDriver(given)

    kind = f"{type(given).__module__}.{type(given).__qualname__}"
    assert str(refused.value) == (
        "database must be a psycopg_pool.AsyncConnectionPool or a URL that begins with 'postgresql://', "
        f"got {kind}"
    )
