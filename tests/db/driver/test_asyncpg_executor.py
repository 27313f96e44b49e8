from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from conformance_caller import NUMBERS, Cursor, Fetched
from conformance_values import Connected, num_jobs, params

from conformance import DriverConformance
from millhand.core.errors import DriverError, OperationTimeout
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.engine.store.job_insert import job_insert_many


async def use_own_jsonb(connection: asyncpg.Connection) -> None:
    """Read and write jsonb as Python values, as many applications do."""
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


SECOND = (pytest.mark.second_driver, pytest.mark.slow)


class TestAsyncpg(DriverConformance):
    ACCEPTED = ("asyncpg.Connection", "asyncpg.Pool", "AsyncConnection", "AsyncSession", "executor")

    @pytest.fixture(
        params=["url", *(pytest.param(name, marks=SECOND) for name in ("pool", "pool with its own jsonb"))]
    )
    async def database(
        self, request: pytest.FixtureRequest, schema_driver: AsyncpgDriver, postgres_url: str
    ) -> AsyncIterator[AsyncpgDriver]:
        if request.param == "url":
            driver = AsyncpgDriver(postgres_url, schema_driver.schema, pool_size=4)
            await driver.open()
            yield driver
            await driver.close()
            return
        init = use_own_jsonb if "jsonb" in request.param else None
        async with asyncpg.create_pool(postgres_url, min_size=1, max_size=4, init=init) as pool:
            driver = AsyncpgDriver(pool, schema_driver.schema)
            await driver.open()
            yield driver
            await driver.close()

    @pytest.fixture(
        params=[
            "connection with its own jsonb",
            pytest.param("connection of a pool", marks=pytest.mark.slow),
            "BEGIN by hand",
        ]
    )
    def connected(self, request: pytest.FixtureRequest, postgres_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def connected() -> AsyncIterator[Any]:
            pool = asyncpg.create_pool(postgres_url, min_size=1, max_size=1)
            async with pool, pool.acquire() as acquired:
                own = await asyncpg.connect(postgres_url)
                connection = acquired if "pool" in request.param else own
                if "jsonb" in request.param:
                    await use_own_jsonb(own)
                if "hand" in request.param:
                    await connection.execute("BEGIN")
                    yield connection
                    await connection.execute("ROLLBACK")
                else:
                    transaction = connection.transaction()
                    await transaction.start()
                    yield connection
                    await transaction.rollback()
                await own.close()

        return connected

    @pytest.fixture
    def committing(self, postgres_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def committing() -> AsyncIterator[Any]:
            connection = await asyncpg.connect(postgres_url)
            yield connection
            await connection.close()

        return committing

    @pytest.fixture
    def cursor(self, request: pytest.FixtureRequest) -> Cursor:
        is_by_hand = request.node.callspec.params["connected"] == "BEGIN by hand"
        if is_by_hand and tuple(map(int, asyncpg.__version__.split(".")[:2])) < (0, 32):
            pytest.skip("asyncpg before 0.32 opens no cursor after a manual BEGIN")

        @contextlib.asynccontextmanager
        async def opened(connection: asyncpg.Connection) -> AsyncIterator[Fetched]:
            cursor = await connection.cursor(NUMBERS)

            async def fetched() -> int:
                return (await cursor.fetchrow())[0]

            yield fetched

        return opened


@pytest.fixture
async def driver_of_two(schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[AsyncpgDriver]:
    """A driver with its own pool of two connections."""
    driver = AsyncpgDriver(postgres_url, schema_driver.schema, pool_size=2)
    await driver.open()
    yield driver
    await driver.close()


async def test_wait_for_a_connection_counts_against_the_deadline(driver_of_two: AsyncpgDriver) -> None:
    """A query that waits too long for a free connection is late."""
    async with driver_of_two.pool.begin(), driver_of_two.pool.begin():
        with pytest.raises(OperationTimeout, match=r"^job_insert must answer within 0\.05 s, got no answer$"):
            await driver_of_two.pool.run(job_insert_many([params()]).within(0.05))

    assert await num_jobs(driver_of_two.pool) == 0


async def test_own_connections_have_the_planner_settings(driver_of_two: AsyncpgDriver) -> None:
    """Millhand's statements run with its planner settings, other SQL with the server's defaults."""
    names = ["application_name", *PLANNER_SETTINGS]
    sql = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)"

    async with driver_of_two.pool.begin() as tx:
        settings = {row["name"]: row["setting"] for row in await tx.fetch(sql, [names])}
    outside = {row["name"]: row["setting"] for row in await driver_of_two.pool.fetch(sql, [names])}
    async with driver_of_two.pool.begin() as tx:
        again = {row["name"]: row["setting"] for row in await tx.fetch(sql, [names])}

    assert settings == again == {"application_name": "millhand", **PLANNER_SETTINGS}
    assert outside == {**settings, "enable_seqscan": "on", "plan_cache_mode": "auto"}


async def test_failed_sql_from_outside_leaves_no_setting(driver_of_two: AsyncpgDriver) -> None:
    """After such an error the connections have Millhand's planner settings."""
    for _ in range(4):
        with pytest.raises(DriverError):
            await driver_of_two.pool.fetch("SELECT 1/0")

    async with driver_of_two.pool.begin() as one, driver_of_two.pool.begin() as two:
        settings = [(await tx.fetch("SHOW enable_seqscan"))[0] for tx in (one, two)]
    assert settings == [{"enable_seqscan": "off"}] * 2
