from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import psycopg_pool
import pytest
from conformance_caller import NUMBERS, Cursor, Fetched
from conformance_values import KILL_ME, Connected, num_jobs, params
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg.types.string import StrDumperVarchar

from conformance import DriverConformance
from millhand.core.errors import ConnectionLost, OperationTimeout
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.engine.store.job import job_get_by_id
from millhand.engine.store.job_insert import job_insert_many


async def customize(connection: psycopg.AsyncConnection[Any]) -> None:
    """Set other JSON functions, another type for texts, and rows by name, as applications do."""
    set_json_loads(lambda text: {"loaded": text}, connection)
    set_json_dumps(lambda _: "null", connection)
    connection.adapters.register_dumper(str, StrDumperVarchar)
    connection.row_factory = dict_row


SECOND = (pytest.mark.second_driver, pytest.mark.slow)


POOLS: dict[str, dict[str, Any]] = {
    "pool": {},
    "pool with autocommit": {"kwargs": {"autocommit": True}},
    "pool with its custom settings": {"configure": customize},
    "pool that prepares at once": {"kwargs": {"prepare_threshold": 0}},
    "pool that never prepares": {"kwargs": {"prepare_threshold": None}},
}


def cursor_of_psycopg() -> Cursor:
    """Return a function that opens a named cursor, which is one of the server."""

    @contextlib.asynccontextmanager
    async def opened(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[Fetched]:
        async with connection.cursor("theirs", row_factory=tuple_row) as cursor:
            await cursor.execute(NUMBERS)

            async def fetched() -> int:
                row = await cursor.fetchone()
                assert row is not None
                return row[0]

            yield fetched

    return opened


class TestPsycopg(DriverConformance):
    ACCEPTED = (
        "asyncpg.Connection",
        "psycopg.AsyncConnection",
        "AsyncConnection",
        "AsyncSession",
        "executor",
    )

    @pytest.fixture(params=[pytest.param(name, marks=SECOND) for name in ("url", *POOLS)])
    async def database(
        self, request: pytest.FixtureRequest, schema_driver: AsyncpgDriver, postgres_url: str
    ) -> AsyncIterator[PsycopgDriver]:
        if request.param == "url":
            driver = PsycopgDriver(postgres_url, schema_driver.schema, pool_size=4)
            await driver.open()
            yield driver
            await driver.close()
            return
        pool = psycopg_pool.AsyncConnectionPool(
            postgres_url, min_size=1, max_size=4, open=False, **POOLS[request.param]
        )
        async with pool:
            driver = PsycopgDriver(pool, schema_driver.schema)
            await driver.open()
            yield driver
            await driver.close()

    @pytest.fixture(params=["connection with its custom settings", "transaction with autocommit"])
    def connected(self, request: pytest.FixtureRequest, postgres_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def connected() -> AsyncIterator[Any]:
            is_autocommit = "autocommit" in request.param
            async with await psycopg.AsyncConnection.connect(
                postgres_url, autocommit=is_autocommit
            ) as connection:
                if is_autocommit:
                    async with connection.transaction(force_rollback=True):
                        yield connection
                    return
                await customize(connection)
                yield connection
                await connection.rollback()

        return connected

    @pytest.fixture
    def committing(self, postgres_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def committing() -> AsyncIterator[Any]:
            async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
                yield connection

        return committing

    @pytest.fixture
    def cursor(self) -> Cursor:
        return cursor_of_psycopg()


@pytest.fixture
async def driver_of_two(schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[PsycopgDriver]:
    """A driver with its own pool of two connections."""
    driver = PsycopgDriver(postgres_url, schema_driver.schema, pool_size=2)
    await driver.open()
    yield driver
    await driver.close()


async def test_commit_on_a_broken_connection_is_an_error(driver_of_two: PsycopgDriver) -> None:
    """A connection that broke unnoticed before the commit is an error."""
    with pytest.raises(ConnectionLost) as lost:  # noqa: PT012 - the end of the block raises
        async with driver_of_two.pool.begin() as tx:
            await tx.run(job_insert_many([params()]))
            with contextlib.suppress(ConnectionLost):
                await tx.fetch(KILL_ME)

    assert str(lost.value) == "commit must succeed, got a connection that is closed"
    assert await num_jobs(driver_of_two.pool) == 0


async def test_instants_are_utc_whatever_the_session_s_time_zone(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """Rows read in a session of another time zone equal those that asyncpg reads."""
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        await connection.execute("SET TIME ZONE 'America/St_Johns'")
        [result] = await schema_driver.executor(connection).run(job_insert_many([params()]))

    read = await schema_driver.pool.run(job_get_by_id(result.job.id))
    assert (read, result.job.created_at.tzinfo) == (result.job, UTC)


async def test_wait_for_a_connection_of_psycopg_counts_against_the_deadline(
    driver_of_two: PsycopgDriver,
) -> None:
    """A query that waits too long for a free connection is late."""
    async with driver_of_two.pool.begin(), driver_of_two.pool.begin():
        with pytest.raises(OperationTimeout, match=r"^job_insert must answer within 0\.05 s, got no answer$"):
            await driver_of_two.pool.run(job_insert_many([params()]).within(0.05))

    assert await num_jobs(driver_of_two.pool) == 0


async def test_own_connections_of_psycopg_have_the_planner_settings(driver_of_two: PsycopgDriver) -> None:
    """Millhand's statements run with its planner settings, other SQL with the server's defaults."""
    names = ["application_name", *PLANNER_SETTINGS]
    sql = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)"

    async with driver_of_two.pool.begin() as tx:
        settings = {row["name"]: row["setting"] for row in await tx.fetch(sql, [names])}
    outside = {row["name"]: row["setting"] for row in await driver_of_two.pool.fetch(sql, [names])}

    assert settings == {"application_name": "millhand", **PLANNER_SETTINGS}
    assert outside == {**settings, "enable_seqscan": "on", "plan_cache_mode": "auto"}


@pytest.mark.parametrize("is_autocommit", [False, True])
async def test_pipeline_of_the_caller_returns_rows(
    schema_driver: AsyncpgDriver, postgres_url: str, is_autocommit: bool
) -> None:
    """In a pipeline Millhand's statements return their rows at once, and the caller's statements keep theirs."""
    driver = PsycopgDriver(postgres_url, schema_driver.schema)
    async with (
        await psycopg.AsyncConnection.connect(postgres_url, autocommit=is_autocommit) as connection,
        connection.pipeline(),
        connection.transaction(force_rollback=True),
    ):
        theirs = await connection.execute("SELECT 41")
        executor = driver.executor(connection)
        inserted = await executor.run(job_insert_many([params(), params()]))
        outside = await executor.fetch("SELECT 7 AS seven")

        assert len(inserted) == 2
        assert outside == [{"seven": 7}]
        assert await theirs.fetchone() == (41,)


@pytest.mark.parametrize("num_jobs", [1, 2])
async def test_instant_after_the_year_9999_is_read_as_the_last_one(
    driver_of_two: PsycopgDriver, num_jobs: int
) -> None:
    """A job for the year 10000 in UTC is inserted, and its result has Python's last instant."""
    at = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12)))

    results = await driver_of_two.pool.run(job_insert_many([params(scheduled_at=at)] * num_jobs))

    assert {one.job.scheduled_at for one in results} == {datetime.max.replace(tzinfo=UTC)}
