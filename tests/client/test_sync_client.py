from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import psycopg
import psycopg_pool
import pytest

from millhand import (
    Config,
    ConfigError,
    DriverError,
    Flow,
    FlowState,
    Hook,
    InsertParams,
    InvalidJob,
    JobFilters,
    JobRow,
    JobState,
    NotFound,
    NotStarted,
    SchemaError,
    SyncClient,
    UniqueConflict,
    UniqueOpts,
    UnknownKind,
    Workers,
)
from millhand import InsertOpts as Opts
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import lines, migrations
from millhand.engine.store.job_list import JobListParams, job_list
from proxy import proxied

GENEROUS_SECONDS = 20.0


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"
    name: str


@pytest.fixture
def client(schema: str, postgres_url: str) -> Iterator[SyncClient]:
    with SyncClient(postgres_url, Config(schema=schema)) as client:
        yield client


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url) as connection:
        yield connection


@pytest.fixture
async def heard(schema_driver: AsyncpgDriver) -> AsyncIterator[asyncio.Queue[str]]:
    """The queues that are announced."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = schema_driver.listener()
    await listener.connect()
    await listener.listen("river_insert", lambda payload: heard.put_nowait(json.loads(payload)["queue"]))
    yield heard
    await listener.close()


async def rows(driver: AsyncpgDriver) -> list[JobRow]:
    return list(await driver.pool.run(job_list(JobListParams())))


@pytest.mark.slow
async def test_insert_writes_the_job_and_announces_its_queue(
    client: SyncClient, schema_driver: AsyncpgDriver, heard: asyncio.Queue[str]
) -> None:
    """Each insert outside a transaction writes its jobs and announces their queues."""
    one = client.insert(Act("one"))
    many = client.insert_many([Act("two"), (Act("three"), Opts(queue="other"))])
    copied = client.insert_many_fast(Act(str(n)) for n in range(1100))

    async with asyncio.timeout(GENEROUS_SECONDS):
        announced = [await heard.get() for _ in range(4)]
    jobs = await rows(schema_driver)
    assert [one.job, *(result.job for result in many)] == jobs[:3]
    assert (copied, sum((await _counts(schema_driver)).values())) == (1100, 1103)
    assert (announced[0], sorted(announced[1:3]), announced[3]) == (
        "default",
        ["default", "other"],
        "default",
    )


async def test_insert_in_a_transaction_depends_on_its_commit(
    client: SyncClient,
    connection: psycopg.Connection[Any],
    schema_driver: AsyncpgDriver,
    heard: asyncio.Queue[str],
) -> None:
    """Jobs in the caller's transaction are written and announced at its commit, and not after a rollback."""
    client.insert(Act("gone"), Opts(queue="gone"), tx=connection)
    client.insert_many_fast([Act("gone too")], tx=connection)
    connection.rollback()
    with connection.transaction():
        client.insert(Act("kept"), Opts(queue="kept"), tx=connection)
        with contextlib.suppress(ZeroDivisionError), connection.transaction():
            client.insert(Act("undone"), Opts(queue="undone"), tx=connection)
            raise ZeroDivisionError
        before = await rows(schema_driver)

    async with asyncio.timeout(GENEROUS_SECONDS):
        announced = await heard.get()
    assert (before, [job.args for job in await rows(schema_driver)]) == ([], [{"name": "kept"}])
    assert (announced, heard.empty()) == ("kept", True)


def test_insert_in_a_transaction_needs_no_start(
    schema: str, connection: psycopg.Connection[Any], postgres_url: str
) -> None:
    """A client inserts in its caller's transaction without a start; other calls raise NotStarted."""
    client = SyncClient(postgres_url, Config(schema=schema))

    inserted = client.insert(Act("x"), tx=connection)

    assert client.jobs.get(inserted.job.id, tx=connection) == inserted.job
    with pytest.raises(NotStarted):
        client.insert(Act("x"))


@pytest.mark.slow
async def test_flow_in_a_transaction_depends_on_its_commit(
    client: SyncClient, connection: psycopg.Connection[Any], schema_driver: AsyncpgDriver
) -> None:
    """A flow in the caller's transaction is written with its jobs at the commit, and not after a rollback."""
    client.insert_flow(chain("gone"), tx=connection)
    connection.rollback()
    with connection.transaction():
        client.insert_flow(chain("kept"), tx=connection)
        before = await rows(schema_driver)
    client.insert_flow(chain("alone"))

    assert before == []
    assert [job.metadata["workflow_name"] for job in await rows(schema_driver)] == [
        *["kept"] * 2,
        *["alone"] * 2,
    ]


@pytest.mark.slow
def test_client_controls_flows(client: SyncClient) -> None:
    """The client has every command for flows, with the same names and errors as the async client."""
    inserted = client.insert_flow(chain("one"))

    tasks = client.flows.tasks(inserted.id)
    cancelled = client.flows.cancel(inserted.id)
    retried = client.flows.retry(inserted.id, mode="all")

    assert [(task.name, task.deps) for task in tasks] == [("act", ()), ("act_2", ["act"])]
    assert (cancelled.state, retried.state) == (FlowState.CANCELLED, FlowState.RUNNING)
    assert client.flows.list(state="running") == [client.flows.get(inserted.id)] == [retried]
    with pytest.raises(NotFound, match="flow must exist, found none with id 0"):
        client.flows.cancel(0)


def chain(name: str) -> Flow:
    """A flow of two tasks, the second after the first."""
    flow = Flow(name)
    flow.add(Act("second"), after=flow.add(Act("first")))
    return flow


def test_client_controls_jobs(client: SyncClient) -> None:
    """The client has every job command, with the same names and errors as the async client."""
    one, two, three = (result.job for result in client.insert_many([Act("1"), Act("2"), Act("3")]))

    cancelled = client.jobs.cancel(one.id)
    retried = client.jobs.retry(one.id)
    updated = client.jobs.update_output(two.id, {"n": 1})
    page = client.jobs.list(JobFilters(kinds=["act"]), limit=2)
    rest = client.jobs.list(JobFilters(kinds=["act"]), limit=2, after=page.cursor)
    deleted = client.jobs.delete(two.id)
    counted = client.jobs.count_by_state([JobState.AVAILABLE])
    all_deleted = client.jobs.delete_many(JobFilters(kinds=["act"]))

    assert (cancelled.state, retried.state) == (JobState.CANCELLED, JobState.AVAILABLE)
    assert updated.output == {"n": 1}
    assert ([job.id for job in page.jobs], [job.id for job in rest.jobs]) == ([one.id, two.id], [three.id])
    assert (deleted.id, counted) == (two.id, {JobState.AVAILABLE: 2})
    assert [job.id for job in all_deleted] == [one.id, three.id]
    with pytest.raises(NotFound, match=rf"^job must exist, found none with id {one.id}$"):
        client.jobs.get(one.id)


async def test_client_controls_queues(client: SyncClient, schema_driver: AsyncpgDriver) -> None:
    """The client has every queue command of the async client."""
    await schema_driver.pool.execute_script(
        "INSERT INTO /* schema */river_queue (name, updated_at) VALUES ('q', now())"
    )

    client.queues.pause("q")
    paused = client.queues.get("q")
    client.queues.resume("q")
    updated = client.queues.update("q", metadata={"n": 1})

    assert paused.paused_at is not None
    assert (updated.paused_at, updated.metadata) == (None, {"n": 1})
    assert [queue.name for queue in client.queues.list()] == ["q"]
    with pytest.raises(NotFound):
        client.queues.pause("none")


@pytest.mark.slow
async def test_client_migrates_the_schema(postgres_url: str, schema_driver: AsyncpgDriver) -> None:
    """The client migrates every line to its newest version, as a starting client requires."""
    schema = f"{schema_driver.schema}_new"
    await schema_driver.pool.fetch(f"CREATE SCHEMA {schema}")
    client = SyncClient(postgres_url, Config(schema=schema))
    with pytest.raises(SchemaError):
        client.start()

    planned = client.migrate("main", dry_run=True)
    done = client.migrate()
    with client:
        client.insert(Act("x"))
    again = client.migrate()
    await schema_driver.pool.fetch(f"DROP SCHEMA {schema} CASCADE")

    assert [step.version for step in planned] == [one.version for one in migrations("main")]
    assert len(done) == sum(len(migrations(line)) for line in lines())
    assert again == ()


def test_client_runs_hooks_that_do_not_wait(schema: str, postgres_url: str) -> None:
    """The client runs hooks that do not wait; a hook that waits is an error, and no job is inserted."""

    class Tags(Hook):
        async def insert_begin(self, params: InsertParams) -> InsertParams:
            return msgspec.structs.replace(params, tags=("seen",))

    with SyncClient(postgres_url, Config(schema=schema, hooks=[Tags()])) as client:
        inserted = client.insert(Act("x"))

    assert inserted.job.tags == ("seen",)


def test_client_raises_the_errors_of_the_async_client(
    client: SyncClient, schema: str, postgres_url: str
) -> None:
    """Each refused insert raises the same error as in the async client."""
    unique = Opts(unique=UniqueOpts(by_args=True))
    first = client.insert(Act("x"), unique)

    assert client.insert(Act("x"), unique).unique_skipped_as_duplicate
    assert client.insert(Act("x"), unique).job.id == first.job.id
    with pytest.raises(UniqueConflict):
        client.insert_many_fast([(Act("x"), unique)])
    with pytest.raises(InvalidJob, match=r"^jobs to insert must be at least one, got none$"):
        client.insert_many([])
    workers = Workers()

    @workers.add()
    def other() -> None: ...

    with pytest.raises(UnknownKind):
        SyncClient(postgres_url, Config(schema=schema, workers=workers)).insert(Act("x"))


def test_id_that_no_row_can_have_is_not_found(client: SyncClient) -> None:
    """A number beyond PostgreSQL's bigint raises NotFound, as any other id without a row does."""
    for call in (client.jobs.get, client.jobs.cancel, client.jobs.retry, client.dead.get, client.dead.retry):
        with pytest.raises(NotFound, match=rf"must exist, found none with id {2**63}$"):
            call(2**63)


@pytest.mark.slow
def test_many_threads_share_a_client(client: SyncClient) -> None:
    """Several threads insert with one client at once."""
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: client.insert(Act(str(n))), range(50)))

    assert len({result.job.id for result in results}) == 50


async def test_second_start_that_fails_leaves_the_client_started(
    client: SyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Other threads go on with the pool of the first start; a first start that fails closes its own."""
    schema = schema_driver.schema
    await schema_driver.pool.fetch(f"ALTER SCHEMA {schema} RENAME TO {schema}_away")
    try:
        with pytest.raises(SchemaError):
            client.start()
    finally:
        await schema_driver.pool.fetch(f"ALTER SCHEMA {schema}_away RENAME TO {schema}")

    assert client.insert(Act("x")).job.kind == "act"


async def test_threads_that_start_a_client_at_once_open_one_pool(schema: str, postgres_url: str) -> None:
    """Each thread may insert after its start, and no pool is left behind."""

    def start_and_insert(name: str) -> str:
        client.start()
        return client.insert(Act(name)).job.args["name"]

    async with proxied(postgres_url) as proxy, asyncio.timeout(GENEROUS_SECONDS):
        client = SyncClient(proxy.url, Config(schema=schema), pool_size=1)
        names = await asyncio.gather(*[asyncio.to_thread(start_and_insert, name) for name in "abcd"])
        await asyncio.to_thread(client.stop)
        num_connected = proxy.num_connected

    assert (names, num_connected) == (["a", "b", "c", "d"], 2)  # one to try the address, and that of the pool


FORKING = """
import os, signal, socket, threading
from millhand import SyncClient

silent = socket.create_server(("127.0.0.1", 0))
client = SyncClient(f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x")
threading.Thread(target=client.start, daemon=True).start()
connected, _ = silent.accept()
if os.fork() == 0:
    signal.alarm(10)
    client.stop()
    print("stopped", flush=True)
    os._exit(0)
os.wait()
os._exit(0)
"""


@pytest.mark.slow
async def test_fork_while_another_thread_starts_the_client_holds_up_no_child() -> None:
    """The child does not wait for a thread that only its parent has."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORKING, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(GENEROUS_SECONDS):
            assert await process.stdout.readline() == b"stopped\n"  # type: ignore[union-attr]
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.slow
def test_client_uses_a_pool_of_its_caller_and_leaves_it_open(schema: str, postgres_url: str) -> None:
    """A client with its caller's pool needs no start, and a stop leaves the pool open."""
    with psycopg_pool.ConnectionPool(postgres_url, min_size=1, max_size=2, open=True) as pool:
        client = SyncClient(pool, Config(schema=schema))
        inserted = client.insert(Act("x"))
        client.stop()
        again = client.jobs.get(inserted.job.id)

    assert again == inserted.job


def test_read_only_transaction_refuses_an_insert(
    client: SyncClient, connection: psycopg.Connection[Any]
) -> None:
    """PostgreSQL refuses an insert in a read-only transaction, and the error has its SQLSTATE."""
    connection.read_only = True

    with pytest.raises(DriverError) as refused:
        client.insert(Act("x"), tx=connection)

    assert refused.value.sqlstate == "25006"


@pytest.mark.parametrize("tx", ["session", object(), 5])
def test_sync_insert_refuses_an_invalid_tx(client: SyncClient, tx: object) -> None:
    """The error lists the accepted types and names the given one."""
    with pytest.raises(TypeError) as refused:
        client.insert(Act("x"), tx=tx)

    assert str(refused.value) == (
        "tx must be a psycopg.Connection, a SQLAlchemy Connection or Session, a Django connection, or the executor of "
        f"a transaction that a driver began, got builtins.{type(tx).__qualname__}"
    )


@pytest.mark.parametrize("database", [None, 3, object()])
def test_sync_client_refuses_an_invalid_database(database: Any) -> None:
    """The error lists the accepted types of database."""
    with pytest.raises(
        ConfigError, match=r"^database must be a URL, a psycopg_pool\.ConnectionPool, .*, got "
    ):
        SyncClient(database)


async def _counts(driver: AsyncpgDriver) -> dict[str, int]:
    counted = await driver.pool.fetch(f"SELECT count(*) AS n FROM {driver.schema}.river_job")
    return {"all": counted[0]["n"]}
