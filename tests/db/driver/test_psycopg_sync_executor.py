from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import psycopg_pool
import pytest
from conformance_caller import NUMBERS, Cursor, Fetched
from conformance_values import GENEROUS_SECONDS, Connected, num_jobs, params
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import set_json_dumps, set_json_loads
from threaded_driver import ThreadedDriver

from conformance import DriverConformance
from millhand.core.errors import ConfigError, OperationTimeout, PoolClosed
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Driver, Executor
from millhand.db.driver.psycopg_sync import PsycopgSyncDriver
from millhand.db.driver.run_sync import run_sync
from millhand.engine.store.job_insert import job_insert_many
from proxy import proxied


def customize(connection: psycopg.Connection[Any]) -> None:
    """Set other JSON functions, another type for texts, and rows by name, as applications do."""
    set_json_loads(lambda text: {"loaded": text}, connection)
    set_json_dumps(lambda _: "null", connection)
    connection.row_factory = dict_row


class BlockingConformance(DriverConformance):
    """The part of the suite that a driver without an event loop can pass."""

    ACCEPTED = ("psycopg.Connection", "SQLAlchemy Connection or Session", "a Django connection", "executor")

    # A waiting thread cannot be cancelled, only its deadline ends it; and there are no listeners.
    test_cancelled_query_does_not_harm_the_pool = None  # type: ignore[assignment]
    test_listener_reports_once_that_it_was_lost = None  # type: ignore[assignment]
    test_closed_listener_is_not_lost = None  # type: ignore[assignment]

    async def test_listener_receives_its_schema_s_topics(self, database: Driver) -> None:
        """Without an event loop there is no listener."""
        with pytest.raises(
            ConfigError, match=r"^a listener must have an event loop, got a blocking driver; "
        ):
            database.listener()


@pytest.mark.second_driver
@pytest.mark.slow
class TestPsycopgSync(BlockingConformance):
    @pytest.fixture(params=[pytest.param("url", marks=pytest.mark.slow), "pool with its custom settings"])
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
            postgres_url, min_size=1, max_size=4, open=True, configure=customize
        ) as pool:
            yield ThreadedDriver(PsycopgSyncDriver(pool, schema_driver.schema))

    @pytest.fixture(params=["connection with its custom settings", "transaction with autocommit"])
    def connected(self, request: pytest.FixtureRequest, postgres_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def connected() -> AsyncIterator[Any]:
            is_autocommit = "autocommit" in request.param
            with psycopg.connect(postgres_url, autocommit=is_autocommit) as connection:
                if is_autocommit:
                    with connection.transaction(force_rollback=True):
                        yield connection
                else:
                    customize(connection)
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
        """A driver with its own pool may be opened and closed twice; one with the caller's pool needs neither."""
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


@pytest.mark.slow
async def test_deadline_of_the_blocking_driver_holds_without_a_network(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """On a network that drops everything a query in a thread is late."""
    async with proxied(postgres_url) as proxy, asyncio.timeout(GENEROUS_SECONDS):
        driver = ThreadedDriver(PsycopgSyncDriver(proxy.url, schema_driver.schema, pool_size=1))
        await driver.open()
        proxy.stop_up()
        with pytest.raises(OperationTimeout, match=r"^job_insert must answer within 0\.1 s, got no answer$"):
            await driver.pool.run(job_insert_many([params()]).within(0.1))
        proxy.restore()
        await driver.pool.run(job_insert_many([params()]))
        await driver.close()


def test_pipeline_of_a_blocking_caller_returns_rows(schema_driver: AsyncpgDriver, postgres_url: str) -> None:
    """In a pipeline Millhand's statements return their rows at once, and the caller's statements keep theirs."""
    driver = PsycopgSyncDriver(postgres_url, schema_driver.schema)
    with (
        psycopg.connect(postgres_url) as connection,
        connection.pipeline(),
        connection.transaction(force_rollback=True),
    ):
        theirs = connection.execute("SELECT 41")
        executor = driver.executor(connection)
        inserted = run_sync(executor.run(job_insert_many([params(), params()])))
        outside = run_sync(executor.fetch("SELECT 7 AS seven"))

        assert len(inserted) == 2
        assert outside == [{"seven": 7}]
        assert theirs.fetchone() == (41,)


def test_block_on_a_connection_of_the_caller_is_part_of_its_transaction(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """Without autocommit, `begin` before any statement is a savepoint in the caller's transaction; on a pool it commits."""
    driver = PsycopgSyncDriver(postgres_url, schema_driver.schema)

    async def insert(executor: Executor) -> None:
        async with executor.begin() as tx:
            await tx.run(job_insert_many([params()]))

    with psycopg.connect(postgres_url) as connection:
        executor = driver.executor(connection)
        run_sync(insert(executor))
        inside = run_sync(num_jobs(executor))
        connection.rollback()
        after_rollback = run_sync(num_jobs(executor))
    with psycopg_pool.ConnectionPool(postgres_url, min_size=1, max_size=1, open=True) as pool:
        pooled = PsycopgSyncDriver(pool, schema_driver.schema).pool
        run_sync(insert(pooled))

        assert (inside, after_rollback, run_sync(num_jobs(pooled))) == (1, 0, 1)
