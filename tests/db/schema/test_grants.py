"""Roles of least privilege: each can do its part, with every driver, and nothing else."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from datetime import timedelta
from typing import ClassVar

import asyncpg
import psycopg
import psycopg_pool
import pytest

from factory import GENEROUS_SECONDS
from millhand import Client, Config, Job, SyncClient, UniqueOpts, Workers, every
from millhand import InsertOpts as Opts
from millhand.core.clock import SystemClock
from millhand.core.config import REINDEXER_INDEX_NAMES
from millhand.core.errors import ConfigError, DriverError, MigrationError
from millhand.core.event import EventKind
from millhand.core.periodic import NeverSchedule
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.grants import Roles, grants_sql
from millhand.db.schema.migrator import Migrator
from millhand.db.sql import compile_statement, statements, without_literals
from millhand.engine.maintenance.reindexer import REFUSED, Reindexer
from millhand.flows.flow import Flow
from millhand.flows.maintainer import FlowMaintainer

REFUSED_STATE = "42501"
UNIQUE = Opts(unique=UniqueOpts(by_args=True))
# Statements of the owner alone, and of the testing kit.
OF_OWNER = re.compile(r"migration_(?!get)|index_(?!get)")
FILLED = {
    "where": "true",
    "order_by": "id",
    "state": "running",
    "states": "'running'",
    "history_table": "millhand_job_stats",
    "after": "true",
    "may_go": "true",
    "discarded_may_go": "true",
    "at": "job.created_at",
    "beyond": "<",
    "direction": "DESC",
    "indexed": "true",
    "last_first": "id",
}
PARTS = {
    "leader_table": ("river_leader", "millhand_leader"),
    "leader_topic": ("river_leadership", "millhand_leadership"),
}
INSERTS = {
    "flow_insert",
    "flow_task_insert_many",
    "job_insert",
    "job_insert_many",
    "job_insert_many_plain",
    "job_insert_unique",
    "job_notify_insert",
}
SABOTAGE = {
    "read errors of the fleet": "SELECT * FROM {0}.millhand_client",
    "read queues": "SELECT * FROM {0}.river_queue",
    "read the ledger": "SELECT * FROM {0}.millhand_orphan_run",
    "delete": "DELETE FROM {0}.river_job",
    "truncate": "TRUNCATE {0}.river_job",
    "change args": "UPDATE {0}.river_job SET args = '{{}}'",
    "change kinds": "UPDATE {0}.river_job SET kind = 'other'",
    "change states": "UPDATE {0}.river_job SET state = 'available'",
    "insert what has been worked": "INSERT INTO {0}.river_job (kind, args, errors) VALUES ('x', '{{}}', '{{}}')",
    "insert a leader": "INSERT INTO {0}.river_leader (leader_id, elected_at, expires_at) VALUES ('x', now(), now())",
    "count ids back": "SELECT setval('{0}.river_job_id_seq', 1)",
    "unbind a queue": "UPDATE {0}.river_queue SET paused_at = now()",
}
CHANGES = {
    "alter": "ALTER TABLE {0}.river_job ADD COLUMN x text",
    "drop": "DROP TABLE {0}.river_job",
    "drop an index": "DROP INDEX {0}.river_job_kind",
    "create": "CREATE TABLE {0}.mine (id bigint)",
    "create a function": "CREATE FUNCTION {0}.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "create a trigger": "CREATE TRIGGER t BEFORE INSERT ON {0}.river_job "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "truncate": "TRUNCATE {0}.river_job",
    "record a migration": "INSERT INTO {0}.river_migration (line, version) VALUES ('main', 9)",
    "drop the schema": "DROP SCHEMA {0} CASCADE",
}


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"
    what: str


class RoleSchema:
    """A schema with its roles, and a URL for each role."""

    def __init__(self, driver: AsyncpgDriver, url: str, roles: Roles) -> None:
        self.driver = driver
        self.roles = roles
        self.address = driver.address
        self.pool_size = driver.pool_size
        self.schema = driver.schema
        self._url = url

    def url(self, role: str) -> str:
        return f"{self._url}{'&' if '?' in self._url else '?'}options=-c%20role%3D{role}"

    def client(self, role: str, **settings: object) -> Client:
        return Client(self.url(role), Config(schema=self.schema, **settings))

    @asynccontextmanager
    async def connected(self, role: str) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.url(role))
        try:
            yield connection
        finally:
            await connection.close()

    async def num_jobs(self) -> int:
        [row] = await self.driver.pool.fetch(f"SELECT count(*) AS n FROM {self.schema}.river_job")
        return int(row["n"])


@pytest.fixture
async def role_schema(schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[RoleSchema]:
    """A migrated schema with the roles of the printed SQL; roles belong to the server, so their names are unique."""
    pid = os.getpid()
    roles = Roles(
        worker=f"t{pid}-worker", inserter=f"t{pid}_in", feeder=f"t{pid}@feeder.iam", reader=f"t{pid}_Reader"
    )
    sql = grants_sql(roles, schema=schema_driver.schema)
    for _ in range(2):  # the second run changes nothing
        await schema_driver.pool.execute_script(sql)
    yield RoleSchema(schema_driver, postgres_url, roles)
    names = ", ".join(f'"{role}"' for role in astuple(roles))
    await schema_driver.pool.execute_script(f"DROP OWNED BY {names}; DROP ROLE {names}")


async def permitted(connection: asyncpg.Connection, statements: Iterable[str], schema: str) -> list[str]:
    """Return the statements that need no missing privilege; each is rolled back."""
    found = []
    for sql in statements:
        transaction = connection.transaction()
        await transaction.start()
        with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
            await connection.execute(sql.format(f'"{schema}"'))
            found.append(sql)
        await transaction.rollback()
    return found


def is_of_owner(name: str) -> bool:
    return OF_OWNER.match(name) is not None or "ALTER TABLE" in statements()[name]


async def explained(connection: asyncpg.Connection, schema: str) -> set[str]:
    """Return the names of all statements that a role may run, without the owner's."""
    allowed = set()
    for name, text in statements().items():
        if is_of_owner(name):
            continue
        for leader in range(2):
            parts = {part: names[leader] for part, names in PARTS.items()} | FILLED
            known = tuple((part, value) for part, value in parts.items() if f"/* {part} */" in text)
            sql = compile_statement(name, schema, fragments=known).sql
            try:
                await connection.execute(f"EXPLAIN (GENERIC_PLAN) {sql}")
                allowed.add(name)
            except asyncpg.InsufficientPrivilegeError:
                allowed.discard(name)
                break
    return allowed


@pytest.mark.slow
async def test_each_role_may_run_its_statements(role_schema: RoleSchema) -> None:
    """The worker runs all, the inserter those that insert, the feeder none, the reader those that only read."""
    roles, may = role_schema.roles, {}
    everything = {name for name in statements() if not is_of_owner(name)}
    for role in astuple(roles):
        async with role_schema.connected(role) as connection:
            may[role] = await explained(connection, role_schema.schema)

    assert may[roles.worker] == everything
    assert may[roles.inserter] & {name for name in everything if "insert" in name} == INSERTS
    touching = {
        name
        for name in everything
        if re.search(
            r"(river_job|river_queue|millhand_\w+)\b(?!_id_seq)", without_literals(statements()[name])
        )
    }
    assert may[roles.feeder] & touching == set()
    writing = {
        name
        for name in everything
        if re.search(r"\b(INSERT INTO|UPDATE /|DELETE FROM|FOR UPDATE)", statements()[name])
    }
    assert may[roles.reader] & writing == set()
    assert {"job_list", "job_get_by_id", "queue_list", "client_list"} <= may[roles.reader]


@pytest.mark.slow
async def test_inserter_inserts_by_every_driver(role_schema: RoleSchema) -> None:
    """One job, many with taken keys, a flow, and in a transaction: asyncpg, psycopg and blocking psycopg."""
    url = role_schema.url(role_schema.roles.inserter)
    config = Config(schema=role_schema.schema)

    async with Client(url, config) as client, role_schema.connected(role_schema.roles.inserter) as connection:
        first = await client.insert(Act("one"), UNIQUE)
        again = await client.insert(Act("one"), UNIQUE)
        many = await client.insert_many([(Act("one"), UNIQUE), (Act("two"), UNIQUE), Act("three")])
        await client.insert_many_fast([Act("four"), (Act("five"), UNIQUE)])
        async with connection.transaction():
            await client.insert(Act("six"), tx=connection)
        flow = Flow("chain")
        flow.add(Act("twelve"), after=flow.add(Act("eleven")))
        await client.insert_flow(flow)
    async with psycopg_pool.AsyncConnectionPool(url, open=False) as pool, Client(pool, config) as client:
        await client.insert_many([(Act("one"), UNIQUE), Act("seven")])
        await client.insert_many_fast([Act("eight")])
    with SyncClient(url, config) as sync_client, psycopg.connect(url) as own:
        sync_client.insert(Act("nine"), UNIQUE)
        sync_client.insert_many([Act("ten"), (Act("nine"), UNIQUE)], tx=own)

    assert (again.unique_skipped_as_duplicate, again.job.id) == (True, first.job.id)
    assert [result.unique_skipped_as_duplicate for result in many] == [True, False, False]
    assert await role_schema.num_jobs() == 12


@pytest.mark.slow
async def test_inserter_inserts_flows_with_empty_groups(role_schema: RoleSchema) -> None:
    """Tasks after an empty group run at once. One that waits for a failure is skipped by the leader, as is what follows."""
    flow = Flow("empty")
    none = flow.add_many([])
    flow.add(Act("completed"), after=none)
    flow.add(Act("ended"), after=none, when="ended")
    flow.add(Act("after"), after=flow.add(Act("failed"), after=none, when="failed"))
    async with role_schema.client(role_schema.roles.inserter) as client:
        row = await client.insert_flow(flow)
    async with role_schema.client(role_schema.roles.worker) as client:
        before = [task.state.value for task in await client.flows.tasks(row.id)]
        await FlowMaintainer(role_schema.driver.pool, clock=SystemClock()).run_once()
        after = await client.flows.tasks(row.id)

    tasks = [(task.state.value, task.job and task.job.state.value) for task in after]
    assert before == ["released", "released", "waiting", "waiting"]
    assert tasks == [
        ("released", "available"),
        ("released", "available"),
        ("skipped", "cancelled"),
        ("skipped", "cancelled"),
    ]


async def test_inserter_can_only_insert(role_schema: RoleSchema) -> None:
    """It may read jobs, which an insert returns, and update one column on which nothing depends; nothing else."""
    async with role_schema.connected(role_schema.roles.inserter) as connection:
        assert await permitted(connection, {**SABOTAGE, **CHANGES}.values(), role_schema.schema) == []
        unavoidable = ("SELECT args FROM {0}.river_job", "UPDATE {0}.river_job SET created_at = now()")
        assert await permitted(connection, unavoidable, role_schema.schema) == list(unavoidable)
    async with role_schema.client(role_schema.roles.inserter) as client:
        job = (await client.insert(Act("one"))).job
        for call in (client.jobs.cancel(job.id), client.jobs.delete(job.id), client.queues.pause("default")):
            with pytest.raises(DriverError) as caught:
                await call
            assert caught.value.sqlstate == REFUSED_STATE


async def test_feeder_inserts_by_copy_and_reads_nothing(role_schema: RoleSchema) -> None:
    """It inserts jobs, unique ones too, by `insert_many_fast`, and cannot read any."""
    async with (
        role_schema.client(role_schema.roles.feeder) as client,
        role_schema.connected(role_schema.roles.feeder) as connection,
    ):
        assert await client.insert_many_fast([Act("one"), (Act("two"), UNIQUE)]) == 2
        with pytest.raises(
            DriverError, match="job_insert must succeed, got permission denied for table river_job"
        ):
            await client.insert(Act("three"))
        nothing = {
            **SABOTAGE,
            **CHANGES,
            "read": "SELECT id FROM {0}.river_job",
            "touch": "UPDATE {0}.river_job SET created_at = now()",
        }
        assert await permitted(connection, nothing.values(), role_schema.schema) == []

    assert await role_schema.num_jobs() == 2


async def test_reader_changes_nothing(role_schema: RoleSchema) -> None:
    """It reads jobs, queues and clients, and every change is denied."""
    changes = {name: sql for name, sql in {**SABOTAGE, **CHANGES}.items() if not name.startswith("read")}
    async with role_schema.connected(role_schema.roles.reader) as connection:
        assert await permitted(connection, changes.values(), role_schema.schema) == []
    async with role_schema.client(role_schema.roles.worker) as client:
        await client.insert(Act("one"))
    with SyncClient(role_schema.url(role_schema.roles.reader), Config(schema=role_schema.schema)) as client:
        assert [job.kind for job in client.jobs.list().jobs] == ["act"]


@pytest.mark.slow
async def test_worker_leads_and_works_and_cannot_change_the_schema(
    role_schema: RoleSchema, caplog: pytest.LogCaptureFixture
) -> None:
    """A client in the worker's role has both leader roles and works a periodic job, without a warning."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    settings = {
        "workers": workers,
        "queues": {"default": 2},
        "prefer_other_leaders": False,
        "periodic_jobs": [every(timedelta(hours=1), Act("tick"), id="tick", run_on_start=True)],
    }
    async with role_schema.client(role_schema.roles.worker, **settings) as client:
        with client.subscribe() as events:
            event = await anext(events)
        is_leader = client.is_periodic_leader
        async with role_schema.connected(role_schema.roles.worker) as connection:
            allowed = await permitted(connection, CHANGES.values(), role_schema.schema)

    assert (event.kind, is_leader, allowed) == (EventKind.JOB_COMPLETED, True, [])
    assert [record.msg for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_leader_that_may_not_rebuild_indexes_logs_it_once(
    role_schema: RoleSchema, caplog: pytest.LogCaptureFixture
) -> None:
    """One log line for all indexes and runs gives the reason and the remedy."""
    driver = AsyncpgDriver(role_schema.url(role_schema.roles.worker), role_schema.schema)
    await driver.open()
    reindexer = Reindexer(
        driver.pool,
        clock=SystemClock(),
        index_names=REINDEXER_INDEX_NAMES,
        schedule=NeverSchedule(),
        timeout=timedelta(seconds=GENEROUS_SECONDS),
    )
    for _ in range(3):
        await reindexer.run_once()
    await driver.close()

    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.msg == "index not rebuilt"
    before_17 = "must be owner of index"
    assert record.reason.replace(before_17, "permission denied for index") == (  # type: ignore[attr-defined]
        f"index_reindex must succeed, got permission denied for index river_job_args_index{REFUSED}"
    )


async def test_migrator_without_privileges_gets_the_right_remedy(role_schema: RoleSchema) -> None:
    """The error names the owner, not other tables or migrators."""
    driver = AsyncpgDriver(role_schema.url(role_schema.roles.worker), role_schema.schema)
    await driver.open()
    with pytest.raises(MigrationError) as refusal:
        await Migrator(driver).down()
    await driver.close()

    assert str(refusal.value) == (
        "version 8 (job id autoincrement) of line 'main' must migrate down, got permission denied for table "
        "river_migration; it was rolled back; run it as the owner of the tables, with CREATE on their schema"
    )


async def test_inserter_of_river_s_may_update_kinds(role_schema: RoleSchema) -> None:
    """The option grants what River's clients need; without it the SQL revokes that again."""
    kinds = ["UPDATE {0}.river_job SET kind = kind"]
    for is_river in (True, False):
        sql = grants_sql(role_schema.roles, schema=role_schema.schema, is_river_inserter=is_river)
        await role_schema.driver.pool.execute_script(sql)
        async with role_schema.connected(role_schema.roles.inserter) as connection:
            assert await permitted(connection, kinds, role_schema.schema) == (kinds if is_river else [])


@pytest.mark.parametrize(
    "name", ["", "pg_monitor", "public", "none", 'a"b', "1st", "a b", "a" * 64, "a;b", "$body$"]
)
def test_invalid_role_is_an_error(name: str) -> None:
    """A name that PostgreSQL rejects, or that would need quotes inside quotes, is an error."""
    with pytest.raises(ConfigError) as caught:
        Roles(reader=name)
    assert str(caught.value) == (
        "role must be letters, digits and any of _.@-, begin with a letter, not be 'none', 'public' or like 'pg_…', "
        f"and be at most 63 bytes long, got {name!r}; choose another name"
    )


def test_two_roles_of_one_name_are_an_error() -> None:
    """Two roles with one name would have both sets of privileges, so that is an error."""
    with pytest.raises(ConfigError, match="roles must have different names, got 'one', 'one', "):
        Roles(worker="one", inserter="one")
