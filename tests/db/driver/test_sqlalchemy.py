from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from conformance_values import GENEROUS_SECONDS
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import TimeoutError as SqlalchemyTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy_engines import DIALECTS, Act, url_for

from millhand import (
    Client,
    Config,
    ConfigError,
    ConnectionLost,
    EventKind,
    NotFound,
    OperationTimeout,
    SyncClient,
    Workers,
)
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.detect import driver_of, sync_driver_of
from millhand.db.driver.run_sync import run_sync


@pytest.mark.slow
async def test_client_works_on_an_engine(schema_driver: AsyncpgDriver, engine: AsyncEngine) -> None:
    """A client inserts, listens, fetches and completes on an engine's connections, and gives them back."""
    workers = Workers()

    @workers.add()
    async def greet(name: str) -> None: ...

    config = Config(
        fetch_poll_interval=timedelta(minutes=5),
        queues={"default": 2},
        schema=schema_driver.schema,
        workers=workers,
    )
    async with Client(engine, config) as client, asyncio.timeout(GENEROUS_SECONDS):
        completed = aiter(client.subscribe(EventKind.JOB_COMPLETED))
        await client.insert(greet.args("one"))
        one = await anext(completed)
        async with AsyncSession(engine) as session, session.begin():
            await client.insert(greet.args("two"), tx=session)
        two = await anext(completed)

    assert [event.job.args for event in (one, two) if event.job] == [{"name": "one"}, {"name": "two"}]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_engine_with_a_missing_server_is_a_lost_connection(tmp_path: Any) -> None:
    """An error that SQLAlchemy wraps is translated like the driver's own."""
    for dialect in DIALECTS:
        engine = create_async_engine(f"{dialect}://x@/nothing?host={tmp_path}", poolclass=NullPool)
        driver = driver_of(engine, "")
        await driver.open()
        with pytest.raises(ConnectionLost):
            await driver.pool.fetch("SELECT 1")


def test_sync_client_on_an_engine_inserts_and_migrates(schema: str, sync_engine: Engine) -> None:
    """Inserts on an engine are committed, and its connections are given back."""
    with SyncClient(sync_engine, Config(schema=schema)) as client:
        inserted = client.insert(Act("one"))
        copied = client.insert_many_fast([Act("two")])
        found = client.jobs.get(inserted.job.id)
        migrated = client.migrate()

    assert (found, copied, migrated) == (inserted.job, 1, ())
    assert sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_exhausted_engine_is_late(schema: str, postgres_url: str) -> None:
    """An insert that waits too long for a connection of the engine is late."""
    engine = create_engine(
        url_for(postgres_url, "postgresql+psycopg"), pool_size=1, max_overflow=0, pool_timeout=0.05
    )
    client = SyncClient(engine, Config(schema=schema))

    with engine.connect(), pytest.raises(OperationTimeout) as late:
        client.insert(Act("one"))
    engine.dispose()

    assert late.value.operation == "job_insert"
    assert isinstance(late.value.__cause__, TimeoutError)
    assert isinstance(late.value.__cause__.__cause__, SqlalchemyTimeoutError)


def test_engine_of_another_database_is_an_error(schema: str) -> None:
    """An engine or connection of another driver is an error that names the accepted ones."""
    engine = create_engine("sqlite://")

    with pytest.raises(ConfigError) as refused:
        SyncClient(engine)
    with engine.connect() as connection, pytest.raises(TypeError) as refused_tx:
        run_sync(sync_driver_of("postgresql://x@/x", schema).executor(connection).fetch("SELECT 1"))
    engine.dispose()

    assert str(refused.value) == (
        "engine must be of psycopg, got sqlite+pysqlite; make it of a URL that begins with 'postgresql+psycopg://'"
    )
    assert str(refused_tx.value) == "tx must be on a connection of psycopg, got SQLAlchemy on sqlite+pysqlite"


@pytest.mark.slow
async def test_job_of_a_session_is_awaited_after_its_commit(
    schema_driver: AsyncpgDriver, engine: AsyncEngine
) -> None:
    """`insert_and_wait` refuses a session; a job of an open session does not exist for a wait, until the commit."""
    workers = Workers()

    @workers.add(output=True)
    async def greet(name: str) -> str:
        return f"hello {name}"

    config = Config(queues={"default": 2}, schema=schema_driver.schema, workers=workers)
    wait = timedelta(seconds=GENEROUS_SECONDS)
    async with Client(engine, config) as client:
        refusing: Any = client.insert_and_wait
        async with AsyncSession(engine) as session, session.begin():
            with pytest.raises(
                ConfigError, match=r"^insert_and_wait must be outside of a transaction, got one"
            ):
                await refusing(greet.args("one"), timeout=wait, tx=session)
            inserted = await client.insert(greet.args("two"), tx=session)
            with pytest.raises(NotFound):
                await client.jobs.wait(inserted.job.id, timeout=wait)
        row = await client.jobs.wait(inserted.job.id, timeout=wait)
        output = await client.insert_and_wait(greet.args("three"), timeout=wait)

    assert (row.output, output) == ("hello two", "hello three")
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
