from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import psycopg_pool
import pytest
from conformance import DriverConformance
from conformance_caller import NUMBERS, Cursor, Fetched
from conformance_words import GENEROUS_SECONDS, KILL_ME, Connected, num_jobs, params
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg.types.string import StrDumperVarchar

from millhand import Client, Config, EventKind, Workers
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.planner import PLANNER_SETTINGS
from millhand.driver.psycopg import PsycopgDriver
from millhand.errors import ConfigError, ConnectionLost, OperationTimeout, PoolClosed
from millhand.insert_opts import InsertParams
from millhand.store.job import job_get_by_id
from millhand.store.job_copy import job_copy
from millhand.store.job_insert import job_insert_many
from proxy import Proxy, proxied


async def use_own_ways(connection: psycopg.AsyncConnection[Any]) -> None:
    """Do what applications do: JSON in other clothes, other types for texts, rows by name."""
    set_json_loads(lambda text: {"loaded": text}, connection)
    set_json_dumps(lambda _: "null", connection)
    connection.adapters.register_dumper(str, StrDumperVarchar)
    connection.row_factory = dict_row


# The rest of them are alike for most of it, and many.
OFTEN = ("url", "pool with its own ways")
POOLS: dict[str, dict[str, Any]] = {
    "pool": {},
    "pool with autocommit": {"kwargs": {"autocommit": True}},
    "pool with its own ways": {"configure": use_own_ways},
    "pool that prepares at once": {"kwargs": {"prepare_threshold": 0}},
    "pool that never prepares": {"kwargs": {"prepare_threshold": None}},
}


def cursor_of_psycopg() -> Cursor:
    """Return what opens a cursor with a name, which is one on the server."""

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

    @pytest.fixture(
        params=[
            pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in ("url", *POOLS)
        ]
    )
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

    @pytest.fixture(params=["connection with its own ways", "transaction with autocommit"])
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
                await use_own_ways(connection)
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
    """A driver with a pool of its own of two connections."""
    driver = PsycopgDriver(postgres_url, schema_driver.schema, pool_size=2)
    await driver.open()
    yield driver
    await driver.close()


async def test_client_works_on_a_pool_of_psycopg_s(schema_driver: AsyncpgDriver, postgres_url: str) -> None:
    """A whole client inserts, listens, fetches and completes on psycopg, woken by the commit of a caller's own."""
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
async def test_client_on_psycopg_outlives_an_outage(schema_driver: AsyncpgDriver, postgres_url: str) -> None:
    """With all of its connections reset and no new ones for a while, a client on psycopg works and listens again."""
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
        proxy.mend()
        async with Client(postgres_url, Config(schema=schema_driver.schema)) as other:
            await other.insert(greet.args("after"))
        event = await anext(completed)

    assert event.job is not None
    assert event.job.args == {"name": "after"}


@pytest.mark.slow
async def test_deadline_of_psycopg_holds_where_nobody_answers(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """On a network that loses everything, a query is late, and does not wait for its own cancellation for ever."""
    async with proxied(postgres_url) as proxy, asyncio.timeout(GENEROUS_SECONDS):
        driver = PsycopgDriver(proxy.url, schema_driver.schema, pool_size=1)
        await driver.open()
        proxy.stop_up()
        with pytest.raises((OperationTimeout, ConnectionLost)):
            await driver.pool.run(job_insert_many([params()]).within(0.1))
        proxy.mend()
        await driver.pool.run(job_insert_many([params()]))
        await driver.close()

    assert await num_jobs(schema_driver.pool) >= 1


async def begun(driver: PsycopgDriver, proxy: Proxy) -> None:
    proxy.stop_up()
    async with driver.pool.begin():
        pass


async def committed(driver: PsycopgDriver, proxy: Proxy) -> None:
    async with driver.pool.begin() as tx:
        await num_jobs(tx)
        proxy.stop_up()


async def rolled_back(driver: PsycopgDriver, proxy: Proxy) -> None:
    async with driver.pool.begin() as tx:
        await num_jobs(tx)
        proxy.stop_up()
        raise ConnectionLost("inside", "what says more")


async def copied(driver: PsycopgDriver, proxy: Proxy) -> None:
    async def rows() -> AsyncIterator[list[InsertParams]]:
        yield [params()]
        proxy.stop_up()
        yield [params()]

    await driver.pool.copy(msgspec.structs.replace(job_copy(rows()), timeout_seconds=1.0))


async def copied_of_a_broken_source(driver: PsycopgDriver, proxy: Proxy) -> None:
    async def rows() -> AsyncIterator[list[InsertParams]]:
        yield [params()]
        proxy.stop_up()
        raise ConnectionLost("source", "what says more")

    await driver.pool.copy(msgspec.structs.replace(job_copy(rows()), timeout_seconds=1.0))


async def listened(driver: PsycopgDriver, proxy: Proxy) -> None:
    listener = driver.listener()
    await listener.connect()
    proxy.stop_up()
    try:
        await listener.ping()
    finally:
        lost = listener.is_lost
        await listener.close()
        assert lost


@pytest.mark.slow
async def test_deadline_of_psycopg_holds_whatever_is_said_where_nobody_answers(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """The ends of a transaction, a copy and a listener are late as a query is, with the oldest psycopg as well."""
    says = (begun, committed, rolled_back, copied, copied_of_a_broken_source, listened)

    async def said(say: Callable[[PsycopgDriver, Proxy], Awaitable[None]]) -> None:
        async with proxied(postgres_url) as proxy:
            driver = PsycopgDriver(proxy.url, schema_driver.schema, pool_size=1)
            await driver.open()
            try:
                await say(driver, proxy)
            except (OperationTimeout, ConnectionLost):
                return
            finally:
                proxy.mend()
                await driver.close()
        raise AssertionError(f"{say.__name__} must fail")

    async with asyncio.timeout(3 * GENEROUS_SECONDS):
        await asyncio.gather(*map(said, says))

    assert await num_jobs(schema_driver.pool) == 0


@pytest.mark.slow
async def test_listener_is_lost_when_psycopg_closes_its_connection(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """A ping that is late on a way that is gone, and cannot be called back, raises nothing of psycopg's."""
    rung = asyncio.Event()
    async with proxied(postgres_url) as proxy, asyncio.timeout(GENEROUS_SECONDS):
        listener = PsycopgDriver(proxy.url, schema_driver.schema).listener()
        listener.on_lost(rung.set)
        await listener.connect()
        proxy.forget()
        proxy.refuse()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await listener.ping()
        await rung.wait()

        assert listener.is_lost
        with pytest.raises(ConnectionLost):
            await listener.ping()
        await listener.close()


async def test_transaction_whose_connection_is_lost_at_its_end_is_no_success(
    driver_of_two: PsycopgDriver,
) -> None:
    """A connection that broke unnoticed before the commit is an error, not a commit."""
    with pytest.raises(ConnectionLost) as lost:  # noqa: PT012 - what is raised at the end
        async with driver_of_two.pool.begin() as tx:
            await tx.run(job_insert_many([params()]))
            with contextlib.suppress(ConnectionLost):
                await tx.fetch(KILL_ME)

    assert str(lost.value) == "commit must succeed, got a connection that is closed"
    assert await num_jobs(driver_of_two.pool) == 0


async def test_instants_are_utc_whatever_the_session_s_time_zone(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """Rows read on a connection of another time zone are those that asyncpg reads."""
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        await connection.execute("SET TIME ZONE 'America/St_Johns'")
        [result] = await schema_driver.executor(connection).run(job_insert_many([params()]))

    read = await schema_driver.pool.run(job_get_by_id(result.job.id))
    assert (read, result.job.created_at.tzinfo) == (result.job, UTC)


async def test_wait_for_a_connection_of_psycopg_counts_against_the_deadline(
    driver_of_two: PsycopgDriver,
) -> None:
    """A query that finds the pool exhausted is late like one that the server does not answer."""
    async with driver_of_two.pool.begin(), driver_of_two.pool.begin():
        with pytest.raises(OperationTimeout, match=r"^job_insert must answer within 0\.05 s, got no answer$"):
            await driver_of_two.pool.run(job_insert_many([params()]).within(0.05))

    assert await num_jobs(driver_of_two.pool) == 0


async def test_own_connections_of_psycopg_plan_our_statements_for_their_indexes(
    driver_of_two: PsycopgDriver,
) -> None:
    """Our statements are planned once and by index; SQL that is not ours is planned as ever."""
    names = ["application_name", *PLANNER_SETTINGS]
    sql = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)"

    async with driver_of_two.pool.begin() as tx:
        ours = {row["name"]: row["setting"] for row in await tx.fetch(sql, [names])}
    foreign = {row["name"]: row["setting"] for row in await driver_of_two.pool.fetch(sql, [names])}

    assert ours == {"application_name": "millhand", **PLANNER_SETTINGS}
    assert foreign == {**ours, "enable_seqscan": "on", "plan_cache_mode": "auto"}


async def test_closing_leaves_the_caller_s_pool_of_psycopg_open(postgres_url: str) -> None:
    """What the caller brought stays his; closed by him, it is said to be closed."""
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


@pytest.mark.parametrize("is_autocommit", [False, True])
async def test_pipeline_of_the_caller_gives_what_was_asked(
    schema_driver: AsyncpgDriver, postgres_url: str, is_autocommit: bool
) -> None:
    """In a pipeline rows come when it is asked for them: ours have them at once, and his statements keep theirs."""
    driver = PsycopgDriver(postgres_url, schema_driver.schema)
    async with (
        await psycopg.AsyncConnection.connect(postgres_url, autocommit=is_autocommit) as connection,
        connection.pipeline(),
        connection.transaction(force_rollback=True),
    ):
        his = await connection.execute("SELECT 41")
        executor = driver.executor(connection)
        inserted = await executor.run(job_insert_many([params(), params()]))
        foreign = await executor.fetch("SELECT 7 AS seven")

        assert len(inserted) == 2
        assert foreign == [{"seven": 7}]
        assert await his.fetchone() == (41,)


async def test_server_that_psycopg_does_not_find_is_a_lost_connection(tmp_path: Path) -> None:
    """Nobody listens: the driver does not open, and says at once that it may another time."""
    driver = PsycopgDriver(f"postgresql://nobody@/nothing?host={tmp_path}")

    with pytest.raises(ConnectionLost) as lost:
        await driver.open()

    assert (lost.value.operation, lost.value.retryable) == ("connect", True)


async def test_open_of_psycopg_that_is_given_up_leaves_nothing_behind(postgres_url: str) -> None:
    """Whoever loses patience while the pool is made, a deadline or a caller, has no tasks that go on connecting."""
    async with proxied(postgres_url) as proxy, asyncio.timeout(GENEROUS_SECONDS):
        before = asyncio.all_tasks()
        opening = asyncio.create_task(PsycopgDriver(proxy.url).open())
        await proxy.wait_connected(1)  # to see whether the URL is right
        proxy.refuse()
        await proxy.wait_connected(3)
        opening.cancel()
        await asyncio.wait([opening])

        left = {task.get_name() for task in asyncio.all_tasks() - before}
        assert opening.cancelled()
        assert not [name for name in left if name.startswith("millhand")]


async def test_url_that_psycopg_cannot_read_is_refused_without_its_password() -> None:
    """A URL is checked when the driver is made or opened, and its password is in no text."""
    driver = PsycopgDriver("postgresql://u:secret@h:5432/d?nonsense=1")

    with pytest.raises(ConfigError) as refused:
        await driver.open()

    assert str(refused.value).startswith("database URL must be like 'postgresql://user@host:5432/name', got ")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("given", [None, 5, object()])
def test_pool_of_another_kind_is_refused(given: Any) -> None:
    """What is neither a URL nor a pool is refused with a list of what is accepted."""
    with pytest.raises(TypeError) as refused:
        PsycopgDriver(given)

    kind = f"{type(given).__module__}.{type(given).__qualname__}"
    assert str(refused.value) == (
        "database must be a psycopg_pool.AsyncConnectionPool or a URL that begins with 'postgresql://', "
        f"got {kind}"
    )


@pytest.mark.parametrize("num_jobs", [1, 2])
async def test_instant_past_python_s_years_is_read_back_as_their_end(
    driver_of_two: PsycopgDriver, num_jobs: int
) -> None:
    """A job for the year 10000, by UTC, is inserted alone or in a batch, and its result says the last instant there is."""
    at = datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12)))

    results = await driver_of_two.pool.run(job_insert_many([params(scheduled_at=at)] * num_jobs))

    assert {one.job.scheduled_at for one in results} == {datetime.max.replace(tzinfo=UTC)}
