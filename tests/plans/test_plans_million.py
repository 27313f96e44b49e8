"""
Plans at a million rows beside a million dead ones: how many blocks each frequent statement reads.

Statements of a million rows fill the table, and its indexes are created afterwards, which takes a third of the time. An
older snapshot is open meanwhile, so the indexes have entries for the dead rows too.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
from test_plans import as_nodes, complete, give_back, is_scan_of_all, params

from factory import qualified
from lent_schema import new_schema_driver
from millhand.core.event import EventKind
from millhand.core.job import AttemptError, ClientId, JobId, JobState
from millhand.core.transition import StateChange
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.db.query import Query
from millhand.db.sql import compile_statement
from millhand.embedded import embedded_postgres
from millhand.engine.store.client import (
    ClientHeartbeatParams,
    client_delete_gone,
    client_get_unregistered,
    client_heartbeat,
)
from millhand.engine.store.client_end import (
    client_declare_lost,
    job_get_stranded,
    job_get_stuck_beside_clients,
    job_get_stuck_of_client,
)
from millhand.engine.store.job import (
    START,
    FetchStart,
    Rescue,
    job_cancel,
    job_delete_before,
    job_get_available,
    job_get_available_after,
    job_get_available_counted,
    job_get_by_ids,
    job_get_cancel_requested,
    job_get_lost,
    job_get_stuck,
    job_rescue_many,
    job_retry,
    job_schedule,
    job_set_state_if_running_many,
)
from millhand.engine.store.job_insert import job_insert_many
from millhand.engine.store.queue_load import NUM_DUE, queue_get_due_kinds

pytestmark = pytest.mark.slow

POSTGRES_SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "4GB",
    "synchronous_commit": "off",
}
NUM_ROWS = 1_000_000
NUM_WAITING = 2_000
LIMIT = 100
SECONDS = 120.0
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FLOORS = (FetchStart(NOW - timedelta(minutes=2), 0),) * 4
# The blocks that a statement may read: to find at most a hundred ids, and for each row that it writes, in seven indexes.
BLOCKS = 250
BLOCKS_PER_ROW = 30

# All but the primary key: dropped, and created again when the table is filled.
INDEXES = """
SELECT index.indexrelid::regclass::text AS name, pg_get_indexdef(index.indexrelid) AS made_by
FROM pg_index AS index
WHERE index.indrelid = '/* schema */river_job'::regclass AND NOT index.indisprimary
"""
# Jobs completed in the last half hour.
INSERT_COMPLETED = f"""
INSERT INTO /* schema */river_job (
    kind, args, max_attempts, queue, priority, state, attempt, attempted_at, attempted_by, scheduled_at, finalized_at
)
SELECT 'act', '{{}}', 25, 'queue_' || n % 2, 1 + n / 2 % 2, 'completed', 1, at, '{{c}}', at, at
FROM generate_series(1, {NUM_ROWS}) AS n,
LATERAL (SELECT timestamptz '2026-11-25 11:30+00' + n * interval '1.5 milliseconds' AS at) AS its
"""
# Dead rows: old versions of jobs, and jobs that the cleaner deleted.
INSERT_DEAD = f"""
INSERT INTO /* schema */river_job (
    kind, args, max_attempts, queue, priority, state, attempt, attempted_at, attempted_by, scheduled_at, finalized_at
)
SELECT
    'act', '{{}}', 25, 'queue_' || n % 2, 1 + n / 2 % 2, state::/* schema */river_job_state, 1, at, '{{c}}', at,
    CASE WHEN state = 'completed' THEN at - interval '1 day' END
FROM generate_series(1, {NUM_ROWS}) AS n,
LATERAL (SELECT
    timestamptz '2026-11-25 11:30+00' + n * interval '1.5 milliseconds' AS at,
    CASE n / 4 % 10
        WHEN 0 THEN 'scheduled' WHEN 1 THEN 'retryable' WHEN 2 THEN 'completed' WHEN 3 THEN 'completed'
        WHEN 4 THEN 'running' WHEN 5 THEN 'running' WHEN 6 THEN 'running'
        ELSE 'available'
    END AS state) AS its
"""
DELETE_DEAD = f"DELETE FROM /* schema */river_job WHERE id > {NUM_ROWS}"
# Waiting and running jobs, a few of them running for two hours.
INSERT_ALIVE = f"""
INSERT INTO /* schema */river_job (
    kind, args, max_attempts, queue, priority, state, attempt, attempted_at, attempted_by, scheduled_at
)
SELECT
    'act', '{{}}', 25, 'queue_1', 1 + n / 2 % 2,
    CASE WHEN n % 2 = 0 THEN 'running' ELSE 'available' END::/* schema */river_job_state,
    1, CASE WHEN n % 100 = 0 THEN at ELSE timestamptz '2026-11-25 12:00+00' END, '{{c}}', at
FROM generate_series(1, 2 * {NUM_WAITING}) AS n,
LATERAL (SELECT
    timestamptz '2026-11-25 11:59+00' + n * interval '1 millisecond'
    - CASE WHEN n % 100 = 0 THEN interval '2 hours' ELSE '0' END AS at) AS its
"""
INSERT_CLIENT = """
INSERT INTO /* schema */millhand_client (
    id, language, version, hostname, pid, kinds, queues, queue_updates, heartbeat_interval, started_at, last_seen_at
)
VALUES ('c', 'python', '1', 'here', 1, '{}', '{}', '{}', '5 seconds', '2026-11-25 09:00+00', '2026-11-25 12:00+00')
"""
GET_RUNNING = "SELECT id FROM /* schema */river_job WHERE state = 'running' AND attempted_at = $1 LIMIT $2"


class Measured(NamedTuple):
    """What a statement did: blocks read, rows written or returned, and whether it scanned a whole table."""

    num_blocks: int
    num_rows: int
    is_of_all: bool

    @property
    def is_cheap(self) -> bool:
        return not self.is_of_all and self.num_blocks <= BLOCKS + BLOCKS_PER_ROW * self.num_rows


class Measurements(NamedTuple):
    """What was measured beside a million dead rows, and for a fetch from the beginning as these were removed."""

    beside: dict[str, Measured]
    rare: dict[str, Measured]
    fetches: list[Measured]


@pytest.fixture
def lone_server_url() -> Iterator[str]:
    """
    The URL of a server that no other test uses.

    While a transaction of any database writes, the snapshots of all others are as old as it, so no dead row may be removed.
    """
    with tempfile.TemporaryDirectory(prefix="millhand-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # a server that root starts runs as another user
        with embedded_postgres(directory / "postgres", POSTGRES_SETTINGS) as server:
            yield server.url


@pytest.fixture
async def lone_driver(lone_server_url: str) -> AsyncIterator[AsyncpgDriver]:
    driver = await new_schema_driver(lone_server_url)
    yield driver
    await driver.close()


@pytest.fixture
async def measurements(lone_driver: AsyncpgDriver, lone_server_url: str) -> AsyncIterator[Measurements]:
    """A million completed jobs and a million dead versions, with all statements run once, and then vacuumed."""
    async with contextlib.AsyncExitStack() as stack:
        idle, filler, ours = [
            await asyncpg.connect(lone_server_url, server_settings=settings) for settings in ({}, {}, PLANNER_SETTINGS)
        ]  # fmt: skip
        for connection in (idle, filler, ours):
            stack.push_async_callback(connection.close)
        await fill(filler, lone_driver, snapshot=idle)
        rows = await filler.fetch(qualified(GET_RUNNING, lone_driver.pool), NOW, LIMIT)
        ids = [JobId(row["id"]) for row in rows]

        async def measure(query: Query[Any]) -> Measured:
            return await measured(ours, query, lone_driver.schema)

        beside = {name: await measure(query) for name, query in hot(ids).items()}
        rare_ones = {name: await measure(query) for name, query in rare().items()}
        from_start = job_get_available(**FETCH)
        fetches = [await measure(from_start)]
        await idle.execute("ROLLBACK")
        fetches += [await measure(from_start), await measure(from_start)]
        await filler.execute(f"VACUUM {lone_driver.schema}.river_job", timeout=SECONDS)
        fetches += [await measure(from_start)]
        yield Measurements(beside, rare_ones, fetches)


async def fill(filler: asyncpg.Connection, driver: AsyncpgDriver, *, snapshot: asyncpg.Connection) -> None:
    """Fill a table, open a snapshot, and update a million of its rows."""

    async def say(sql: str) -> None:
        await filler.execute(qualified(sql, driver.pool), timeout=SECONDS)

    await say("ALTER TABLE /* schema */river_job SET (autovacuum_enabled = off)")
    await say("SET maintenance_work_mem = '256MB'")
    indexes = await filler.fetch(qualified(INDEXES, driver.pool))
    for index in indexes:
        await say(f"DROP INDEX {index['name']}")
    await say(INSERT_COMPLETED)
    await say(INSERT_DEAD)
    await snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class LIMIT 1")
    for sql in (DELETE_DEAD, INSERT_ALIVE, INSERT_CLIENT, *(index["made_by"] for index in indexes)):
        await say(sql)
    await say("VACUUM (ANALYZE) /* schema */river_job")


async def measured(connection: asyncpg.Connection, query: Query[Any], schema: str) -> Measured:
    """Say a statement as a worker does, undo it, and return what it took."""
    sql, names = compile_statement(query.name, schema, fragments=query.fragments)
    transaction = connection.transaction()
    await transaction.start()
    plan_json = await connection.fetchval(
        f"EXPLAIN (ANALYZE, TIMING OFF, BUFFERS, FORMAT JSON) {sql}",
        *(query.params[name] for name in names),
        timeout=SECONDS,
    )
    await transaction.rollback()
    nodes = as_nodes(plan_json)
    num_blocks = nodes[0]["Shared Hit Blocks"] + nodes[0]["Shared Read Blocks"]
    writes = [one for node in nodes if node["Node Type"] == "ModifyTable" for one in (node, *node["Plans"])]
    num_rows = max(int(node["Actual Rows"]) for node in (nodes[0], *writes))
    is_of_all = any(
        is_scan_of_all(node) for node in nodes if node.get("Relation Name") in (None, "river_job")
    )
    milliseconds = json.loads(plan_json)[0]["Execution Time"]
    print(f"{query.name:30}{num_blocks:>8,} blocks{num_rows:>5,} rows{milliseconds:>8.1f} ms")
    return Measured(num_blocks, num_rows, is_of_all)


FETCH: dict[str, Any] = {"queue": "queue_1", "limit": LIMIT, "client_id": ClientId("c"), "now": NOW}
IDLE: dict[str, Any] = {**FETCH, "queue": "nothing"}
STUCK: dict[str, Any] = {"stuck_horizon": NOW - HOUR, "after_id": JobId(0), "limit": LIMIT}
CLEAN: dict[str, Any] = {
    "cancelled_horizon": NOW - 24 * HOUR, "completed_horizon": NOW - 24 * HOUR, "discarded_horizon": NOW - 24 * HOUR,
    "limit": LIMIT,
}  # fmt: skip


def heartbeat() -> Query[Any]:
    values: dict[str, Any] = {
        "hostname": "here", "kinds": ["act"], "pid": 1, "queue_updates": {}, "queues": {}, "version": "1",
        "heartbeat_interval": timedelta(seconds=5),
    }  # fmt: skip
    params = ClientHeartbeatParams(id=ClientId("c"), **values)
    return client_heartbeat(params, started_at=NOW - HOUR, now=NOW)


def hot(ids: list[JobId]) -> dict[str, Query[Any]]:
    """Return the frequent statements, beside dead rows; `ids` are of jobs that run since NOW."""
    changes = [
        StateChange(
            id=id, state=JobState.RETRYABLE, event_kind=EventKind.JOB_FAILED, scheduled_at=NOW, attempted_at=NOW,
            attempted_by="c",
        )
        for id in ids
    ]  # fmt: skip
    rescues = [Rescue(id, JobState.RETRYABLE, AttemptError(NOW, 1, "stuck")) for id in ids]
    bounded = {**STUCK, "due_before": NOW - HOUR}
    return {
        "fetch after starts": job_get_available_after(FLOORS, **FETCH),
        "fetch above starts, of known kinds": job_get_available_after(FLOORS, kinds=["act"], **FETCH),
        "fetch of an idle queue": job_get_available(**IDLE),
        "fetch of an idle queue, by priority": job_get_available_after(START, **IDLE),
        "complete": complete(ids),
        "set state": job_set_state_if_running_many(changes, now=NOW),
        "cancel requested": job_get_cancel_requested(ids),
        "get many": job_get_by_ids(ids),
        "cancel": job_cancel(ids[0], now=NOW),
        "retry": job_retry(JobId(1), now=NOW),
        "insert": job_insert_many([params()], now=NOW),
        "insert many": job_insert_many([params()] * LIMIT, now=NOW),
        "schedule": job_schedule(now=NOW, limit=LIMIT, due_after=NOW - timedelta(seconds=10)),
        "search for stuck jobs": job_get_stuck(**bounded),
        "search for stuck jobs beside clients": job_get_stuck_beside_clients(**bounded),
        "search for stuck jobs of a client": job_get_stuck_of_client(client_id=ClientId("c"), **bounded),
        "search for jobs of who is gone": job_get_stranded(
            after_id=JobId(0), limit=LIMIT, is_full=False, now=NOW
        ),
        "rescue": job_rescue_many(rescues, stuck_horizon=NOW + HOUR),
        "give back": give_back(ids),
        "search for who is gone": client_declare_lost(
            id=ClientId("c"), steady_since=NOW - HOUR, suspect_ids=(), recently=timedelta(minutes=1), now=NOW
        ),
        "clean clients while no client is gone": client_delete_gone(last_seen_horizon=NOW - 24 * HOUR),
        "heartbeat": heartbeat(),
        "clean": job_delete_before(**CLEAN, within=timedelta(minutes=2)),
        "clean what is older": job_delete_before(**{**CLEAN, "completed_horizon": NOW}, within=timedelta(minutes=10)),
    }  # fmt: skip


def rare() -> dict[str, Query[Any]]:
    """
    Return the rare statements, which read dead entries: they take at most a fiftieth of the time, or run once an hour.

    The search for lost fetches runs only after an outage, for two minutes.
    """
    return {
        "fetch from the beginning": job_get_available(**FETCH),
        "fetch from the beginning, counted": job_get_available_counted(job_get_available(**FETCH)),
        "fetch from the beginning, by priority": job_get_available_after(START, **FETCH),
        "schedule everything": job_schedule(now=NOW, limit=LIMIT),
        "search for all stuck jobs": job_get_stuck(**STUCK),
        "search for all jobs of dead clients": job_get_stranded(after_id=JobId(0), limit=LIMIT, now=NOW),
        "search for others": client_get_unregistered(now=NOW),
        "search for kinds": queue_get_due_kinds(["queue_1"], limit=NUM_DUE, now=NOW),
        "search for a lost fetch": job_get_lost(queue="queue_1", client_id=ClientId("c"), after=NOW),
        "clean everything": job_delete_before(**CLEAN),
    }


# One test, because each worker of a parallel run would fill a table of its own.
async def test_hot_statements_read_few_blocks_beside_a_million_dead_rows(measurements: Measurements) -> None:
    """
    Frequent statements scan no whole table and read no dead entries: a fixed number of blocks, and some for each row.

    Each statement that writes finds rows to write. Rare statements read dead entries, but by an index. Without the
    snapshot one fetch from the beginning reads and marks the dead rows, the next only their entries, and after a vacuum
    a fetch reads neither.
    """
    whole = (
        "fetch after starts",
        "complete",
        "set state",
        "insert many",
        "rescue",
        "give back",
        "clean what is older",
    )
    beside, marking, marked, vacuumed = [fetch.num_blocks for fetch in measurements.fetches]

    assert {name: one for name, one in measurements.beside.items() if not one.is_cheap} == {}
    assert {name: measurements.beside[name].num_rows for name in whole} == dict.fromkeys(whole, LIMIT)
    assert {name for name, one in measurements.rare.items() if one.is_of_all} == set()
    assert min(one.num_blocks for one in measurements.rare.values()) > 10 * BLOCKS
    assert measurements.fetches[-1].is_cheap
    assert vacuumed <= marked < beside / 5 < marking
