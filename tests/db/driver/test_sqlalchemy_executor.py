from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

import pytest
from conformance_caller import NUMBERS, Cursor, Fetched
from conformance_values import GENEROUS_SECONDS, Connected
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy_engines import DIALECTS, OWN_JSON, Act, engine_of, url_for
from test_psycopg_sync_executor import BlockingConformance
from threaded_driver import ThreadedDriver

from conformance import DriverConformance
from free_ports import free_ports
from millhand import Client, Config, ConfigError, ConnectionLost, Flow, SyncClient
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.detect import driver_of, sync_driver_of
from millhand.db.driver.protocol import Driver
from millhand.engine.store.job_list import JobListParams, job_list
from user_programs import run_python

COMMITTING = {"isolation_level": "AUTOCOMMIT"}


WITHOUT_GREENLET = """
import os, sys
sys.modules["greenlet"] = None
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from millhand import SyncClient
from millhand.db.driver.tx_executor import executor_of, sync_executor_of
engine = create_engine(os.environ["DATABASE_URL"])
SyncClient(engine)
with Session(engine) as session:
    sync_executor_of(session, "")
    print(type(session).__name__)
    try:
        executor_of(session, "")
    except TypeError as error:
        print("refused" if str(error).endswith("SyncClient takes it") else error)
"""


@pytest.fixture
async def client(schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[Client]:
    """A client on asyncpg, whatever library its callers use."""
    async with Client(postgres_url, Config(schema=schema_driver.schema)) as client:
        yield client


@pytest.fixture
async def notified(schema_driver: AsyncpgDriver) -> AsyncIterator[asyncio.Queue[str]]:
    """The queues that are announced."""
    notified: asyncio.Queue[str] = asyncio.Queue()
    listener = schema_driver.listener()
    await listener.connect()
    await listener.listen("river_insert", lambda payload: notified.put_nowait(json.loads(payload)["queue"]))
    yield notified
    await listener.close()


async def names(driver: AsyncpgDriver) -> list[Any]:
    return [job.args["name"] for job in await driver.pool.run(job_list(JobListParams()))]


@pytest.mark.second_driver
@pytest.mark.slow
class TestSqlalchemy(DriverConformance):
    ACCEPTED = (
        "asyncpg.Connection",
        "psycopg.AsyncConnection",
        "AsyncConnection",
        "AsyncSession",
        "executor",
    )

    @pytest.fixture(params=[pytest.param(DIALECTS[0], marks=pytest.mark.slow), DIALECTS[1]])
    async def database(
        self, request: pytest.FixtureRequest, schema_driver: AsyncpgDriver, postgres_url: str
    ) -> AsyncIterator[Driver]:
        async with engine_of(postgres_url, request.param, pool_size=4, max_overflow=0) as engine:
            driver = driver_of(engine, schema_driver.schema)
            await driver.open()
            yield driver
            await driver.close()

    @pytest.fixture(params=["connection", "session"])
    def connected(self, request: pytest.FixtureRequest, postgres_url: str, database: Driver) -> Connected:
        dialect = DIALECTS[isinstance(database, AsyncpgDriver)]

        @contextlib.asynccontextmanager
        async def connected() -> AsyncIterator[Any]:
            async with engine_of(postgres_url, dialect, **OWN_JSON) as engine:
                tx = engine.connect() if request.param == "connection" else AsyncSession(engine)
                async with tx as entered:
                    yield entered
                    await entered.rollback()

        return connected

    @pytest.fixture
    def committing(self, postgres_url: str, database: Driver) -> Connected:
        dialect = DIALECTS[isinstance(database, AsyncpgDriver)]

        @contextlib.asynccontextmanager
        async def committing() -> AsyncIterator[Any]:
            async with (
                engine_of(postgres_url, dialect) as engine,
                engine.execution_options(**COMMITTING).connect() as connection,
            ):
                yield connection

        return committing

    @pytest.fixture
    def cursor(self) -> Cursor:
        @contextlib.asynccontextmanager
        async def opened(tx: AsyncConnection | AsyncSession) -> AsyncIterator[Fetched]:
            result = await tx.stream(text(NUMBERS), execution_options={"yield_per": 1})

            async def fetched() -> int:
                return (await anext(result))[0]

            yield fetched
            await result.close()

        return opened


@pytest.mark.second_driver
@pytest.mark.slow
class TestSqlalchemySync(BlockingConformance):
    @pytest.fixture
    async def database(
        self, schema_driver: AsyncpgDriver, postgres_url: str
    ) -> AsyncIterator[ThreadedDriver]:
        engine = create_engine(
            url_for(postgres_url, "postgresql+psycopg"), pool_size=4, max_overflow=0, pool_timeout=10
        )
        yield ThreadedDriver(sync_driver_of(engine, schema_driver.schema))
        engine.dispose()

    @pytest.fixture(params=["connection", "session"])
    def connected(self, request: pytest.FixtureRequest, sync_engine: Engine) -> Connected:
        @contextlib.asynccontextmanager
        async def connected() -> AsyncIterator[Any]:
            tx = sync_engine.connect() if request.param == "connection" else Session(sync_engine)
            with tx as entered:
                yield entered
                entered.rollback()

        return connected

    @pytest.fixture
    def committing(self, sync_engine: Engine) -> Connected:
        @contextlib.asynccontextmanager
        async def committing() -> AsyncIterator[Any]:
            with sync_engine.execution_options(**COMMITTING).connect() as connection:
                yield connection

        return committing

    @pytest.fixture
    def cursor(self) -> Cursor:
        @contextlib.asynccontextmanager
        async def opened(tx: Connection | Session) -> AsyncIterator[Fetched]:
            result = tx.execute(text(NUMBERS), execution_options={"yield_per": 1})

            async def fetched() -> int:
                return next(result)[0]

            yield fetched
            result.close()

        return opened

    async def test_open_and_close_may_be_repeated(self, database: Driver) -> None:
        """An engine is the caller's: it needs no `open`, and `close` leaves it usable."""
        await database.open()
        await database.close()
        await database.close()

        assert await database.pool.fetch("SELECT 1 AS a") == [{"a": 1}]


Opened = Callable[[AsyncEngine], AbstractAsyncContextManager[Any]]


def scoped(engine: AsyncEngine) -> AbstractAsyncContextManager[Any]:
    return async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)()


WAYS: dict[str, Opened] = {
    "connection": lambda engine: engine.connect(),
    "session": AsyncSession,
    "scoped session": scoped,
}


def chain(name: str) -> Flow:
    """A flow of two tasks, the second after the first."""
    flow = Flow(name)
    flow.add(Act("second"), after=flow.add(Act("first")))
    return flow


@pytest.mark.second_driver
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_jobs_and_flows_are_part_of_sqlalchemy_s_transaction(
    client: Client, engine: AsyncEngine, schema_driver: AsyncpgDriver, notified: asyncio.Queue[str], way: str
) -> None:
    """SQLAlchemy's commit alone commits a job, a flow and their notification, as the first statement or a later one."""
    async with WAYS[way](engine) as tx:
        await client.insert(Act("gone"), tx=tx)
        await tx.rollback()
        await client.insert_flow(chain("gone"), tx=tx)
        await tx.rollback()
        await tx.execute(text("SELECT 1"))
        await client.insert(Act("gone too"), tx=tx)
        await client.insert_flow(chain("gone too"), tx=tx)
        await tx.rollback()
        await client.insert(Act("kept"), tx=tx)
        await client.insert_flow(chain("kept"), tx=tx)
        nested = await tx.begin_nested()
        await client.insert(Act("undone"), tx=tx)
        await client.insert_flow(chain("undone"), tx=tx)
        await nested.rollback()
        before, is_notified = await names(schema_driver), not notified.empty()
        await tx.commit()
        await client.insert_many_fast([Act("left")], tx=tx)

    async with asyncio.timeout(GENEROUS_SECONDS):
        await notified.get()
    assert (before, is_notified, await names(schema_driver)) == ([], False, ["kept", "first", "second"])
    assert [flow.name for flow in await client.flows.list()] == ["kept"]
    assert notified.empty()


@pytest.mark.second_driver
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_job_alone_is_committed(
    client: Client, engine: AsyncEngine, schema_driver: AsyncpgDriver, way: str
) -> None:
    """If the job is the only statement of a transaction, SQLAlchemy's commit commits it."""
    async with WAYS[way](engine) as tx:
        await client.insert(Act("kept"), tx=tx)
        await tx.commit()

    assert await names(schema_driver) == ["kept"]


@pytest.mark.second_driver
@pytest.mark.slow
async def test_block_of_an_executor_is_a_savepoint(
    client: Client, engine: AsyncEngine, schema_driver: AsyncpgDriver
) -> None:
    """A block that is the first statement on SQLAlchemy's connection does not end its transaction."""
    async with engine.connect() as connection:
        async with schema_driver.executor(connection).begin() as savepoint:
            await client.insert(Act("gone"), tx=savepoint)
        await connection.rollback()

    assert await names(schema_driver) == []


@pytest.mark.second_driver
@pytest.mark.slow
async def test_job_and_rows_are_one_transaction(
    client: Client, engine: AsyncEngine, schema_driver: AsyncpgDriver
) -> None:
    """The caller's own statements, before and after, are committed or rolled back with the job."""
    await schema_driver.pool.execute_script("CREATE TABLE /* schema */shop (n int UNIQUE)")
    insert = text(f"INSERT INTO {schema_driver.schema}.shop VALUES (:n)")

    async with AsyncSession(engine) as session:
        async with session.begin():
            await session.execute(insert, {"n": 1})
            await client.insert(Act("one"), tx=session)
            await session.execute(insert, {"n": 2})
        with contextlib.suppress(ZeroDivisionError):
            async with session.begin():
                await client.insert(Act("two"), tx=session)
                await session.execute(insert, {"n": 3})
                raise ZeroDivisionError

    rows = await schema_driver.pool.fetch(f"SELECT n FROM {schema_driver.schema}.shop ORDER BY n")
    assert (await names(schema_driver), rows) == (["one"], [{"n": 1}, {"n": 2}])


@pytest.mark.second_driver
@pytest.mark.slow
async def test_session_in_a_test_s_own_transaction_stays_in_it(
    client: Client, engine: AsyncEngine, schema_driver: AsyncpgDriver
) -> None:
    """A session inside an outer transaction commits a savepoint; the outer rollback removes the job."""
    async with engine.connect() as connection:
        outer = await connection.begin()
        session = AsyncSession(connection, join_transaction_mode="create_savepoint")
        async with session:
            await client.insert(Act("one"), tx=session)
            await session.commit()
            await client.insert(Act("two"), tx=session)
            await session.rollback()
            inside = await client.jobs.list(tx=session)
        await outer.rollback()

    assert [job.args for job in inside.jobs] == [{"name": "one"}]
    assert await names(schema_driver) == []


SYNC_WAYS: dict[str, Callable[[Engine], AbstractContextManager[Any]]] = {
    "connection": lambda engine: engine.connect(),
    "session": Session,
    "scoped session": lambda engine: contextlib.closing(scoped_session(sessionmaker(engine))),
}


@pytest.mark.second_driver
@pytest.mark.slow
@pytest.mark.parametrize("way", SYNC_WAYS)
async def test_job_alone_of_a_sync_client_is_committed(
    sync_engine: Engine, schema_driver: AsyncpgDriver, way: str
) -> None:
    """If the job is the only statement of a transaction, SQLAlchemy's commit commits it."""
    client = SyncClient(sync_engine, Config(schema=schema_driver.schema))
    with SYNC_WAYS[way](sync_engine) as tx:
        client.insert(Act("kept"), tx=tx)
        tx.commit()

    assert await names(schema_driver) == ["kept"]


@pytest.mark.second_driver
@pytest.mark.slow
@pytest.mark.parametrize("way", SYNC_WAYS)
async def test_jobs_and_flows_of_a_sync_client_are_part_of_the_transaction(
    sync_engine: Engine, schema_driver: AsyncpgDriver, notified: asyncio.Queue[str], way: str
) -> None:
    """On a Connection, Session or scoped session only SQLAlchemy's commit commits a job and a flow."""
    client = SyncClient(sync_engine, Config(schema=schema_driver.schema))
    with SYNC_WAYS[way](sync_engine) as tx:
        client.insert(Act("gone"), tx=tx)
        tx.rollback()
        client.insert_flow(chain("gone"), tx=tx)
        tx.rollback()
        client.insert(Act("kept"), tx=tx)
        client.insert_flow(chain("kept"), tx=tx)
        with contextlib.suppress(ZeroDivisionError), tx.begin_nested():
            client.insert(Act("undone"), tx=tx)
            client.insert_flow(chain("undone"), tx=tx)
            raise ZeroDivisionError
        before = await names(schema_driver)
        tx.commit()
        client.insert_many_fast([Act("left")], tx=tx)

    async with asyncio.timeout(GENEROUS_SECONDS):
        await notified.get()
    assert (before, await names(schema_driver)) == ([], ["kept", "first", "second"])
    assert [flow.name for flow in client.flows.list()] == ["kept"]
    assert notified.empty()


@pytest.mark.second_driver
@pytest.mark.slow
async def test_objects_for_the_other_client_are_an_error(
    client: Client, schema: str, sync_engine: Engine, engine: AsyncEngine
) -> None:
    """A Client rejects a blocking session, and a SyncClient an asynchronous one."""
    with Session(sync_engine) as session, pytest.raises(TypeError) as refused:
        await client.insert(Act("x"), tx=session)
    async with AsyncSession(engine) as asynchronous:
        with pytest.raises(TypeError) as refused_sync:
            SyncClient(sync_engine, Config(schema=schema)).insert(Act("x"), tx=asynchronous)
    with pytest.raises(
        ConfigError, match=r"^database must be a URL, .*, got sqlalchemy\.engine\.base\.Engine$"
    ):
        Client(sync_engine)  # type: ignore[arg-type]

    assert str(refused.value).endswith(
        "a SQLAlchemy AsyncConnection or AsyncSession, or the executor of a transaction that a driver began, "
        "got sqlalchemy.orm.session.Session; SyncClient takes it"
    )
    assert str(refused_sync.value).endswith(
        "got sqlalchemy.ext.asyncio.session.AsyncSession; Client takes it"
    )


@pytest.mark.slow
async def test_blocking_engines_and_sessions_need_no_greenlet(postgres_url: str) -> None:
    """SQLAlchemy without its asyncio extra has no greenlet, and blocking code does not need it."""
    ended = await run_python(["-c", WITHOUT_GREENLET], database_url=url_for(postgres_url, DIALECTS[0]))

    assert (ended.code, ended.stdout.split()) == (0, ["Session", "refused"]), ended.stderr


@pytest.mark.parametrize("dialect", ["blocking", *DIALECTS])
async def test_server_that_is_away_is_a_lost_connection_to_the_caller_of_an_insert(
    dialect: str, postgres_url: str
) -> None:
    """An insert that is the first statement of a session raises Millhand's own error, and not SQLAlchemy's."""
    url = f"postgresql://x@127.0.0.1:{free_ports(1)[0]}/x"

    async def insert() -> None:
        if dialect == "blocking":
            with Session(create_engine(url_for(url, DIALECTS[0]))) as session:
                SyncClient(postgres_url).insert(Act("x"), tx=session)
        else:
            async with engine_of(url, dialect) as engine, AsyncSession(engine) as asynchronous:
                await Client(postgres_url).insert(Act("x"), tx=asynchronous)

    with pytest.raises(ConnectionLost) as lost:
        await insert()

    assert (lost.value.operation, lost.value.retryable) == ("job_insert", True)
