"""Claims about COPY by asyncpg: what it leaves behind when its connection is lost."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator

import psycopg
import pytest
from conformance_values import batches, params

from millhand.core.errors import ConnectionLost
from millhand.core.insert_opts import InsertParams
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.query import CopyOut
from millhand.engine.store.job_copy import job_copy

LONG = 20.0


@pytest.fixture
async def own_driver(schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[AsyncpgDriver]:
    """A driver whose connections a test may end; what earlier tests left is collected, and logged, before."""
    gc.collect()
    driver = AsyncpgDriver(postgres_url, schema_driver.schema, pool_size=1)
    await driver.open()
    yield driver
    await driver.close()


def end_session(url: str, pid: int) -> None:
    """End a session and wait for its end, without a turn of the event loop."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


async def left_behind(driver: AsyncpgDriver) -> list[asyncio.Task[object]]:
    """Return the tasks of asyncpg that do not end; during a statement the event loop learns of each lost connection."""
    await driver.pool.fetch("SELECT 1")
    tasks = [task for task in asyncio.all_tasks() if "Connection." in repr(task.get_coro())]
    return list((await asyncio.wait(tasks, timeout=LONG))[1]) if tasks else []


@pytest.mark.slow
@pytest.mark.parametrize("num_turns", range(4))
async def test_copy_that_begins_as_its_session_ends_leaves_nothing(
    own_driver: AsyncpgDriver, postgres_url: str, caplog: pytest.LogCaptureFixture, num_turns: int
) -> None:
    """However far asyncpg has noticed the end, the COPY raises ConnectionLost, and no future keeps an error."""

    async def copy() -> None:
        async with own_driver.pool.begin() as tx:
            [row] = await tx.fetch("SELECT pg_backend_pid() AS pid")
            end_session(postgres_url, row["pid"])
            for _ in range(num_turns):
                await asyncio.sleep(0)
            await tx.copy(job_copy(batches([params()])))

    with pytest.raises(ConnectionLost) as lost:
        await copy()
    tasks = await left_behind(own_driver)
    gc.collect()

    assert "cannot switch" not in str(lost.value)
    assert (tasks, caplog.messages) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("num_turns", range(4))
async def test_copy_out_that_begins_as_its_session_ends_leaves_nothing(
    own_driver: AsyncpgDriver, postgres_url: str, caplog: pytest.LogCaptureFixture, num_turns: int
) -> None:
    """The same holds for rows that the server sends, on a connection of the pool."""

    async def write(_piece: bytes) -> None:
        pass

    async def copy_out() -> None:
        [row] = await own_driver.pool.fetch("SELECT pg_backend_pid() AS pid")
        end_session(postgres_url, row["pid"])
        for _ in range(num_turns):
            await asyncio.sleep(0)
        await own_driver.pool.copy_out(CopyOut("ones", "SELECT 1", write))

    with pytest.raises(ConnectionLost):
        await copy_out()
    tasks = await left_behind(own_driver)
    gc.collect()

    assert (tasks, caplog.messages) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_copy_that_waits_for_its_source_when_its_session_ends_leaves_nothing(
    own_driver: AsyncpgDriver, postgres_url: str, caplog: pytest.LogCaptureFixture, is_cancelled: bool
) -> None:
    """The COPY ends, also by the caller, and no task stays that waits for an answer of the server."""
    is_waiting = asyncio.Event()
    caplog.set_level(logging.WARNING)

    async def endless() -> AsyncIterator[list[InsertParams]]:
        yield [params()]
        is_waiting.set()
        await asyncio.Event().wait()

    async def copy() -> None:
        async with asyncio.timeout(LONG), own_driver.pool.begin() as tx:
            [row] = await tx.fetch("SELECT pg_backend_pid() AS pid")
            copying = asyncio.ensure_future(tx.copy(job_copy(endless())))
            await is_waiting.wait()
            end_session(postgres_url, row["pid"])
            if is_cancelled:
                copying.cancel()
            await copying

    with pytest.raises(asyncio.CancelledError if is_cancelled else ConnectionLost):
        await copy()
    tasks = await left_behind(own_driver)
    gc.collect()

    assert (tasks, caplog.messages) == ([], [])
