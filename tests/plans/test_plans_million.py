"""
Plans at a million rows, beside a million dead ones: how many blocks each statement reads that is said all the time.

The table is filled by statements of a million rows each, and its indexes are made afterwards, which takes a third of the
time; a snapshot that is older is open meanwhile, so the indexes have the entries of the dead as well.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import pytest
from test_plans import as_nodes, complete, give_back, is_scan_of_all, params

from factory import qualified
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.planner import PLANNER_SETTINGS
from millhand.event import EventKind
from millhand.job import AttemptError, ClientId, JobId, JobState
from millhand.sql import compile_statement
from millhand.store.client import (
    ClientHeartbeatParams,
    client_delete_gone,
    client_get_unknown_kinds,
    client_get_unregistered,
    client_heartbeat,
)
from millhand.store.client_end import (
    client_declare_lost,
    job_get_stranded,
    job_get_stuck_beside_clients,
    job_get_stuck_of_client,
)
from millhand.store.job import (
    Rescue,
    job_cancel,
    job_delete_before,
    job_get_available,
    job_get_by_ids,
    job_get_cancel_requested,
    job_get_lost,
    job_get_stuck,
    job_rescue_many,
    job_retry,
    job_schedule,
    job_set_state_if_running_many,
)
from millhand.store.job_fetch import START, FetchStart, job_get_available_above
from millhand.store.job_insert import job_insert_many
from millhand.store.query import Query
from millhand.transition import StateChange

pytestmark = pytest.mark.slow

NUM_ROWS = 1_000_000
NUM_WAITING = 2_000
LIMIT = 100
SECONDS = 120.0
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FLOORS = (FetchStart(NOW - timedelta(minutes=2), 0),) * 4
# What a statement may read: to find its way, by a hundred ids at most, and for each row that it writes, in seven indexes.
BLOCKS = 250
BLOCKS_PER_ROW = 30

# All but the primary key: they are dropped, and made again once the rows are there.
INDEXES = """
SELECT index.indexrelid::regclass::text AS name, pg_get_indexdef(index.indexrelid) AS made_by
FROM pg_index AS index
WHERE index.indrelid = '/* schema */river_job'::regclass AND NOT index.indisprimary
"""
# What was completed, in the last half an hour.
INSERT_COMPLETED = f"""
INSERT INTO /* schema */river_job (
    kind, args, max_attempts, queue, priority, state, attempt, attempted_at, attempted_by, scheduled_at, finalized_at
)
SELECT 'act', '{{}}', 25, 'queue_' || n % 2, 1 + n / 2 % 2, 'completed', 1, at, '{{c}}', at, at
FROM generate_series(1, {NUM_ROWS}) AS n,
LATERAL (SELECT timestamptz '2026-11-25 11:30+00' + n * interval '1.5 milliseconds' AS at) AS its
"""
# What is dead: versions of jobs in the states that they had before, and jobs that were deleted when their time was over.
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
# What waits, and what runs, a little of it for two hours.
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


class Said(NamedTuple):
    """What became of a statement: blocks read, rows that it wrote or gave, and whether it read a whole table."""

    num_blocks: int
    num_rows: int
    is_of_all: bool

    @property
    def is_cheap(self) -> bool:
        return not self.is_of_all and self.num_blocks <= BLOCKS + BLOCKS_PER_ROW * self.num_rows


class Found(NamedTuple):
    """What was measured beside a million dead rows, and of a fetch from the start as the dead were taken away."""

    beside: dict[str, Said]
    seldom: dict[str, Said]
    fetches: list[Said]


@pytest.fixture
async def found(module_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[Found]:
    """A million jobs that were completed and a million dead versions, all statements said once, and then vacuumed."""
    async with contextlib.AsyncExitStack() as stack:
        idle, filler, ours = [
            await asyncpg.connect(postgres_url, server_settings=settings) for settings in ({}, {}, PLANNER_SETTINGS)
        ]  # fmt: skip
        for connection in (idle, filler, ours):
            stack.push_async_callback(connection.close)
        await fill(filler, module_driver, snapshot=idle)
        rows = await filler.fetch(qualified(GET_RUNNING, module_driver.pool), NOW, LIMIT)
        ids = [JobId(row["id"]) for row in rows]

        async def said(query: Query[Any]) -> Said:
            return await measured(ours, query, module_driver.schema)

        beside = {name: await said(query) for name, query in hot(ids).items()}
        seldom = {name: await said(query) for name, query in seldom_said().items()}
        from_start = job_get_available(**FETCH)
        fetches = [await said(from_start)]
        await idle.execute("ROLLBACK")
        fetches += [await said(from_start), await said(from_start)]
        await filler.execute(f"VACUUM {module_driver.schema}.river_job", timeout=SECONDS)
        fetches += [await said(from_start)]
        yield Found(beside, seldom, fetches)


async def fill(filler: asyncpg.Connection, driver: AsyncpgDriver, *, snapshot: asyncpg.Connection) -> None:
    """Fill a table, open a snapshot, and have a million of its rows die."""

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


async def measured(connection: asyncpg.Connection, query: Query[Any], schema: str) -> Said:
    """Say a statement as a worker does, undo it, and return what it took."""
    sql, names = compile_statement(query.name, schema, fragments=query.fragments)
    transaction = connection.transaction()
    await transaction.start()
    told = await connection.fetchval(
        f"EXPLAIN (ANALYZE, TIMING OFF, BUFFERS, FORMAT JSON) {sql}",
        *(query.params[name] for name in names),
        timeout=SECONDS,
    )
    await transaction.rollback()
    nodes = as_nodes(told)
    num_blocks = nodes[0]["Shared Hit Blocks"] + nodes[0]["Shared Read Blocks"]
    writes = [one for node in nodes if node["Node Type"] == "ModifyTable" for one in (node, *node["Plans"])]
    num_rows = max(int(node["Actual Rows"]) for node in (nodes[0], *writes))
    is_of_all = any(
        is_scan_of_all(node) for node in nodes if node.get("Relation Name") in (None, "river_job")
    )
    milliseconds = json.loads(told)[0]["Execution Time"]
    print(f"{query.name:30}{num_blocks:>8,} blocks{num_rows:>5,} rows{milliseconds:>8.1f} ms")
    return Said(num_blocks, num_rows, is_of_all)


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
    """Return what is said all the time, beside dead rows; `ids` are of jobs that run since NOW."""
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
        "fetch above floors": job_get_available_above(FLOORS, **FETCH),
        "fetch above floors, of known kinds": job_get_available_above(FLOORS, kinds=["act"], **FETCH),
        "fetch of an idle queue": job_get_available(**IDLE),
        "fetch of an idle queue, by priority": job_get_available_above(START, **IDLE),
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
        "clean clients while nobody is gone": client_delete_gone(last_seen_horizon=NOW - 24 * HOUR),
        "heartbeat": heartbeat(),
        "clean": job_delete_before(**CLEAN, within=timedelta(minutes=2)),
        "clean what is older": job_delete_before(**{**CLEAN, "completed_horizon": NOW}, within=timedelta(minutes=10)),
    }  # fmt: skip


def seldom_said() -> dict[str, Query[Any]]:
    """
    Return what reads the entries of the dead, and is said seldom: a fiftieth of the time at most, or once an hour.

    What a lost fetch took is looked for when the database is back, and for two minutes more.
    """
    return {
        "fetch from the start": job_get_available(**FETCH),
        "fetch from the start, by priority": job_get_available_above(START, **FETCH),
        "schedule everything": job_schedule(now=NOW, limit=LIMIT),
        "search for all stuck jobs": job_get_stuck(**STUCK),
        "search for all jobs of who is gone": job_get_stranded(after_id=JobId(0), limit=LIMIT, now=NOW),
        "search for others": client_get_unregistered(now=NOW),
        "search for kinds": client_get_unknown_kinds(kinds=["act"], queues=["queue_1"], now=NOW),
        "search for a lost fetch": job_get_lost(queue="queue_1", client_id=ClientId("c"), after=NOW),
        "clean everything": job_delete_before(**CLEAN),
    }


# One test: workers of a test run that share its cases out would each fill a table.
async def test_hot_statements_read_few_blocks_beside_a_million_dead_rows(found: Found) -> None:
    """
    What is said all the time reads no whole table and no entries of the dead: some blocks, and some for each row.

    Each that writes has met the rows that it is for. What has to read the entries of the dead now and then goes by its
    index, too, and dead there are. With the snapshot gone one fetch from the start reads the dead rows and marks them, the
    next their entries alone, and none after a vacuum.
    """
    whole = (
        "fetch above floors",
        "complete",
        "set state",
        "insert many",
        "rescue",
        "give back",
        "clean what is older",
    )
    beside, marking, marked, vacuumed = [fetch.num_blocks for fetch in found.fetches]

    assert {name: said for name, said in found.beside.items() if not said.is_cheap} == {}
    assert {name: found.beside[name].num_rows for name in whole} == dict.fromkeys(whole, LIMIT)
    assert {name for name, said in found.seldom.items() if said.is_of_all} == set()
    assert min(said.num_blocks for said in found.seldom.values()) > 10 * BLOCKS
    assert found.fetches[-1].is_cheap
    assert vacuumed <= marked < beside / 5 < marking
