from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest
from conformance import DriverConformance
from conformance_caller import NUMBERS, Cursor, Fetched
from conformance_words import GENEROUS_SECONDS, Connected, params
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import set_json_dumps, set_json_loads
from threaded import ThreadedDriver

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.protocol import Driver
from millhand.driver.psycopg_sync import PsycopgSyncDriver
from millhand.driver.run_sync import run_sync
from millhand.errors import ConfigError, ConnectionLost, OperationTimeout, PoolClosed
from millhand.store.job_insert import job_insert_many
from proxy import proxied


def use_own_ways(connection: psycopg.Connection[Any]) -> None:
    """Do what applications do: JSON in other clothes, rows by name."""
    set_json_loads(lambda text: {"loaded": text}, connection)
    set_json_dumps(lambda _: "null", connection)
    connection.row_factory = dict_row


class BlockingConformance(DriverConformance):
    """Of the suite, what a driver without an event loop can do."""

    ACCEPTED = ("psycopg.Connection", "SQLAlchemy Connection or Session", "a Django connection", "executor")

    # A thread that waits for the database is not cancelled, its deadline ends it; and nobody could be rung.
    test_cancelled_query_leaves_the_pool_whole = None  # type: ignore[assignment]
    test_listener_tells_once_that_it_was_lost = None  # type: ignore[assignment]
    test_listener_closed_by_us_was_not_lost = None  # type: ignore[assignment]

    async def test_listener_hears_its_schema_s_topics(self, database: Driver) -> None:
        """There is none: nobody could be rung."""
        with pytest.raises(
            ConfigError, match=r"^a listener must have an event loop, got a blocking driver; "
        ):
            database.listener()


class TestPsycopgSync(BlockingConformance):
    @pytest.fixture(params=[pytest.param("url", marks=pytest.mark.slow), "pool with its own ways"])
    async def database(
        self, request: pytest.FixtureRequest, schema_driver: AsyncpgDriver, postgres_url: str
    ) -> AsyncIterator[ThreadedDriver]:
        if request.param == "url":
            driver = ThreadedDriver(PsycopgSyncDriver(postgres_url, schema_driver.schema, pool_size=4))
            await driver.open()
            yield driver
            await driver.close()
            return
        with psycopg_pool.ConnectionPool(
            postgres_url, min_size=1, max_size=4, open=True, configure=use_own_ways
        ) as pool:
            yield ThreadedDriver(PsycopgSyncDriver(pool, schema_driver.schema))

    @pytest.fixture(params=["connection with its own ways", "transaction with autocommit"])
    def connected(self, request: pytest.FixtureRequest, postgres_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def connected() -> AsyncIterator[Any]:
            is_autocommit = "autocommit" in request.param
            with psycopg.connect(postgres_url, autocommit=is_autocommit) as connection:
                if is_autocommit:
                    with connection.transaction(force_rollback=True):
                        yield connection
                else:
                    use_own_ways(connection)
                    yield connection
                    connection.rollback()

        return connected

    @pytest.fixture
    def committing(self, postgres_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def committing() -> AsyncIterator[Any]:
            with psycopg.connect(postgres_url, autocommit=True) as connection:
                yield connection

        return committing

    @pytest.fixture
    def cursor(self) -> Cursor:
        @contextlib.asynccontextmanager
        async def opened(connection: psycopg.Connection[Any]) -> AsyncIterator[Fetched]:
            cursor = connection.cursor("theirs", row_factory=tuple_row)
            await asyncio.to_thread(cursor.execute, NUMBERS)

            async def fetched() -> int:
                row = await asyncio.to_thread(cursor.fetchone)
                assert row is not None
                return row[0]

            yield fetched
            await asyncio.to_thread(cursor.close)

        return opened

    async def test_open_and_close_may_be_repeated(self, database: Driver) -> None:
        """A driver with a pool of its own may be opened and closed twice; one with the caller's needs neither."""
        assert isinstance(database, ThreadedDriver)
        assert isinstance(database.driver, PsycopgSyncDriver)
        is_own = database.driver._url is not None
        await database.open()
        await database.close()
        await database.close()

        if is_own:
            with pytest.raises(PoolClosed):
                await database.pool.fetch("SELECT 1")
        await database.open()
        assert await database.pool.fetch("SELECT 1 AS a") == [{"a": 1}]


def test_server_that_the_blocking_driver_does_not_find_is_a_lost_connection(tmp_path: Path) -> None:
    """Nobody listens: the driver does not open, and says at once that it may another time."""
    driver = PsycopgSyncDriver(f"postgresql://nobody@/nothing?host={tmp_path}")

    with pytest.raises(ConnectionLost) as lost:
        run_sync(driver.open())

    assert (lost.value.operation, lost.value.retryable) == ("connect", True)


@pytest.mark.slow
async def test_deadline_of_the_blocking_driver_holds_where_nobody_answers(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """On a network that loses everything, a thread gets its answer all the same: that there was none."""
    async with proxied(postgres_url) as proxy, asyncio.timeout(GENEROUS_SECONDS):
        driver = ThreadedDriver(PsycopgSyncDriver(proxy.url, schema_driver.schema, pool_size=1))
        await driver.open()
        proxy.stop_up()
        with pytest.raises(OperationTimeout, match=r"^job_insert must answer within 0\.1 s, got no answer$"):
            await driver.pool.run(job_insert_many([params()]).within(0.1))
        proxy.mend()
        await driver.pool.run(job_insert_many([params()]))
        await driver.close()


async def test_what_waits_for_an_event_loop_is_refused() -> None:
    """Whatever would wait is an error at once, not a hang; what only lets others have their turn goes on."""
    turns = []

    async def waits() -> None:
        await asyncio.sleep(0)
        turns.append(1)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(ConfigError) as refused:
        run_sync(waits())

    assert turns == [1]
    assert str(refused.value) == (
        "hooks and middleware of a SyncClient must not wait for an event loop, got one that awaits "
        f"{type(asyncio.get_running_loop().create_future()).__module__}.Future; insert with Client, or do without"
    )


def test_pipeline_of_the_caller_without_async_gives_what_was_asked(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """In a pipeline rows come when it is asked for them: ours have them at once, and his statements keep theirs."""
    driver = PsycopgSyncDriver(postgres_url, schema_driver.schema)
    with (
        psycopg.connect(postgres_url) as connection,
        connection.pipeline(),
        connection.transaction(force_rollback=True),
    ):
        his = connection.execute("SELECT 41")
        executor = driver.executor(connection)
        inserted = run_sync(executor.run(job_insert_many([params(), params()])))
        foreign = run_sync(executor.fetch("SELECT 7 AS seven"))

        assert len(inserted) == 2
        assert foreign == [{"seven": 7}]
        assert his.fetchone() == (41,)


FORKING = """
import os, sys
from millhand.driver.run_sync import run_sync
from millhand.driver.psycopg_sync import PsycopgSyncDriver
from millhand.errors import PoolClosed

driver = PsycopgSyncDriver(sys.argv[1])
run_sync(driver.open())
if os.fork() == 0:
    try:
        run_sync(driver.pool.fetch("SELECT 1"))
    except PoolClosed as error:
        print(error, flush=True)
    run_sync(driver.open())
    print(run_sync(driver.pool.fetch("SELECT 2 AS number")), flush=True)
    run_sync(driver.close())
    sys.exit()
os.wait()
print(run_sync(driver.pool.fetch("SELECT 3 AS number")), flush=True)
run_sync(driver.close())
"""


async def test_pool_is_not_used_by_two_processes(postgres_url: str) -> None:
    """After a fork a pool stays its process's: the other is refused until it opens one, and ends without harm."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORKING, postgres_url, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(GENEROUS_SECONDS):
        out, _ = await process.communicate()

    assert out.decode().splitlines() == [
        "connect must succeed, got a pool of the process that this one is a fork of; start the client anew here",
        "[{'number': 2}]",
        "[{'number': 3}]",
    ]
    assert process.returncode == 0
