"""Claims about drivers behind PgBouncer in transaction mode, where each transaction may have another server connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import asyncpg
import psycopg
import psycopg_pool
import pytest
import test_psycopg_sync_executor
from conformance_caller import Cursor
from conformance_values import Connected
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from test_psycopg_executor import cursor_of_psycopg
from threaded_driver import ThreadedDriver

from conformance import DriverConformance
from millhand import Client, Config, SyncClient
from millhand.core.errors import DriverError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Driver
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.db.driver.psycopg_sync import PsycopgSyncDriver
from pooler import pgbouncer

pytestmark = pytest.mark.slow

REMEDY = (
    ", as behind PgBouncer in transaction mode; connect to PostgreSQL itself, set max_prepared_statements in PgBouncer 1.21 "
    "or newer, or begin the URL with postgresql+psycopg:// (your own asyncpg connections: statement_cache_size=0)"
)


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"
    name: str


@pytest.fixture(scope="module")
async def bouncer_url(postgres_url: str) -> AsyncIterator[str]:
    """The URL of the test's database through a pooler with two server connections."""
    async with pgbouncer(postgres_url) as url:
        yield url


class TestPsycopgBehindPgBouncer(DriverConformance):
    @pytest.fixture(params=["url", "pool that never prepares"])
    async def database(
        self, request: pytest.FixtureRequest, schema_driver: AsyncpgDriver, bouncer_url: str
    ) -> AsyncIterator[Driver]:
        if request.param == "url":
            driver = PsycopgDriver(bouncer_url, schema_driver.schema, pool_size=4)
            await driver.open()
            yield driver
            await driver.close()
            return
        pool = psycopg_pool.AsyncConnectionPool(
            bouncer_url, min_size=1, max_size=4, open=False, kwargs={"prepare_threshold": None}
        )
        async with pool:
            driver = PsycopgDriver(pool, schema_driver.schema)
            await driver.open()
            yield driver
            await driver.close()

    @pytest.fixture
    def connected(self, bouncer_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def connected() -> AsyncIterator[Any]:
            async with await psycopg.AsyncConnection.connect(
                bouncer_url, prepare_threshold=None
            ) as connection:
                yield connection
                await connection.rollback()

        return connected

    ACCEPTED = ("psycopg.AsyncConnection", "AsyncSession", "executor")

    @pytest.fixture
    def committing(self, bouncer_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def committing() -> AsyncIterator[Any]:
            async with await psycopg.AsyncConnection.connect(
                bouncer_url, autocommit=True, prepare_threshold=None
            ) as connection:
                yield connection

        return committing

    @pytest.fixture
    def cursor(self) -> Cursor:
        return cursor_of_psycopg()

    # In this mode the listening connection serves other clients too, so no notification arrives; polls find jobs.
    test_listener_receives_its_schema_s_topics = None  # type: ignore[assignment]
    test_listener_reports_once_that_it_was_lost = None  # type: ignore[assignment]


@contextlib.asynccontextmanager
async def connected_in_a_thread(url: str, *, autocommit: bool = False) -> AsyncIterator[Any]:
    """Yield a blocking connection, used only in threads, because this event loop runs the proxy."""
    connection = await asyncio.to_thread(psycopg.connect, url, autocommit=autocommit, prepare_threshold=None)
    yield connection
    await asyncio.to_thread(connection.rollback)
    await asyncio.to_thread(connection.close)


class TestPsycopgSyncBehindPgBouncer(test_psycopg_sync_executor.TestPsycopgSync):
    @pytest.fixture
    async def database(self, schema_driver: AsyncpgDriver, bouncer_url: str) -> AsyncIterator[ThreadedDriver]:
        driver = ThreadedDriver(PsycopgSyncDriver(bouncer_url, schema_driver.schema, pool_size=4))
        await driver.open()
        yield driver
        await driver.close()

    @pytest.fixture
    def connected(self, bouncer_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def connected() -> AsyncIterator[Any]:
            async with connected_in_a_thread(bouncer_url) as connection:
                yield connection

        return connected

    @pytest.fixture
    def committing(self, bouncer_url: str) -> Connected:
        @contextlib.asynccontextmanager
        async def committing() -> AsyncIterator[Any]:
            async with connected_in_a_thread(bouncer_url, autocommit=True) as connection:
                yield connection

        return committing


async def test_jobs_are_inserted_through_a_pooler(schema_driver: AsyncpgDriver, bouncer_url: str) -> None:
    """A caller's transaction works behind PgBouncer, whatever library it uses."""
    config = Config(schema=schema_driver.schema)
    client = Client(bouncer_url, config)  # not started: it only uses the connections of others
    url = bouncer_url.replace("postgresql", "postgresql+psycopg", 1)
    engine = create_async_engine(url, poolclass=NullPool, connect_args={"prepare_threshold": None})
    for n in range(10):
        async with AsyncSession(engine) as session:
            await client.insert(Act(f"gone {n}"), tx=session)
            await session.rollback()
            await client.insert(Act(f"session {n}"), tx=session)
            await session.commit()
        async with await psycopg.AsyncConnection.connect(bouncer_url, prepare_threshold=None) as connection:
            await client.insert_many([Act(f"connection {n}"), Act("twice")], tx=connection)
    num_copied = await asyncio.to_thread(_insert_in_a_thread, bouncer_url, config)

    rows = await schema_driver.pool.fetch(
        f"SELECT args->>'name' AS name FROM {schema_driver.schema}.river_job"
    )
    names = sorted(row["name"].split()[0] for row in rows)
    assert (num_copied, names) == (
        2,
        ["connection"] * 10 + ["copied"] * 2 + ["session"] * 10 + ["sync"] * 10 + ["twice"] * 10,
    )


async def test_asyncpg_s_own_transaction_works_behind_a_pooler(
    schema_driver: AsyncpgDriver, bouncer_url: str
) -> None:
    """`tx=` accepts asyncpg connections without a statement cache, ten at once, with rollback and COPY."""
    client = Client(bouncer_url, Config(schema=schema_driver.schema))

    async def insert(n: int) -> None:
        connection = await asyncpg.connect(bouncer_url, statement_cache_size=0)
        with contextlib.suppress(ZeroDivisionError):
            async with connection.transaction():
                await client.insert(Act("gone"), tx=connection)
                raise ZeroDivisionError
        async with connection.transaction():
            await client.insert(Act(f"one {n}"), tx=connection)
            await client.insert_many([Act("many"), Act("many")], tx=connection)
            await client.insert_many_fast([Act("copied")], tx=connection)
        await connection.close()

    await asyncio.gather(*(insert(n) for n in range(10)))

    rows = await schema_driver.pool.fetch(
        f"SELECT args->>'name' AS name FROM {schema_driver.schema}.river_job"
    )
    names = sorted(row["name"].split()[0] for row in rows)
    assert names == ["copied"] * 10 + ["many"] * 20 + ["one"] * 10


def _insert_in_a_thread(url: str, config: Config) -> int:
    with SyncClient(url, config) as client:
        for n in range(10):
            client.insert(Act(f"sync {n}"))
        return client.insert_many_fast([Act("copied"), Act("copied too")])


async def test_programs_on_one_session_name_the_pooler(
    schema_driver: AsyncpgDriver, bouncer_url: str, tmp_path: Path
) -> None:
    """After another program on the same session of the server, a worker, doctor and a list name the pooler and a remedy."""

    async def printed(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "millhand", *arguments, cwd=tmp_path, env=env, stdout=-1, stderr=-1
        )
        _, err = await process.communicate()
        return process.returncode, err.decode().splitlines()[-1]

    env = {**os.environ, "DATABASE_URL": bouncer_url, "MILLHAND_DATABASE_SCHEMA": schema_driver.schema}
    await printed("doctor", "--only", "schema.version")  # its statements stay on the session

    codes, errors = zip(
        *[await printed(*one) for one in (["worker"], ["doctor"], ["job", "list"])], strict=True
    )

    assert codes == (1, 1, 1)
    # A worker compares the number of connections first, and ignores the error.
    assert [re.sub(r"_\d+__", "_N__", error.partition(", got ")[2]) for error in errors] == [
        f'prepared statement "__asyncpg_stmt_N__" already exists{REMEDY}'
    ] * 3


async def test_client_that_is_given_another_session_names_the_pooler(
    schema_driver: AsyncpgDriver, bouncer_url: str
) -> None:
    """A statement that was prepared on one session of the server is missing on another, and the error says why."""
    one, other = (AsyncpgDriver(bouncer_url, schema_driver.schema, pool_size=1) for _ in range(2))
    await one.open()
    await other.open()
    query = "SELECT pg_backend_pid() AS pid, $1::text AS text"
    [row] = await one.pool.fetch(query, ["a"])

    async with other.pool.begin() as tx:
        [held] = await tx.fetch("SELECT pg_backend_pid() AS pid")
        assert held["pid"] == row["pid"]  # so the next statement of `one` runs on the other session
        with pytest.raises(DriverError) as raised:
            await one.pool.fetch(query, ["a"])
    await one.close()
    await other.close()

    assert raised.value.sqlstate == "26000"
    assert raised.value.reason.endswith(f"does not exist{REMEDY}")


async def test_more_callers_than_connections_of_the_pooler(
    schema_driver: AsyncpgDriver, bouncer_url: str
) -> None:
    """Twenty connections share the pooler's two, and every statement is run."""
    driver = PsycopgDriver(bouncer_url, schema_driver.schema, pool_size=20)
    await driver.open()
    client = Client(driver, Config(schema=schema_driver.schema))

    async def insert(n: int) -> int:
        async with driver.pool.begin() as tx:
            return (await client.insert(Act(str(n)), tx=tx)).job.id

    ids = await asyncio.gather(*(insert(n) for n in range(60)))
    await driver.close()

    assert len(set(ids)) == 60
