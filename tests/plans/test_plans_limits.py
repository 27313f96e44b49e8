"""
Plans of the statements of limits beside a million waiting jobs of one tenant, and of a hundred thousand other tenants.

Each statement is prepared and has a generic plan, as in a worker's session, and is undone. It runs with Millhand's planner
settings and with the server's, with statistics of now and with those of nearly empty tables.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import msgspec
import pytest
from plan_recorder import rows_read
from test_plans import FETCHING, Node, as_nodes, params

from factory import qualified
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertParams
from millhand.core.job import ClientId, JobId, JobState
from millhand.core.limit import Limit
from millhand.core.transition import StateChange
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.db.query import Query
from millhand.db.sql import compile_statement
from millhand.engine.store.job import job_get_available
from millhand.limits.job_store import (
    limit_correct_totals,
    limit_partition_correct,
    limit_partition_delete_idle,
    limit_partition_get_differing,
    limited_job_admit,
    limited_job_admit_available,
    limited_job_adopt_newest,
    limited_job_adopt_pending,
    limited_job_begin_to_wait,
    limited_job_collect,
    limited_job_complete_and_admit,
    limited_job_complete_many,
    limited_job_delete_completed_many,
    limited_job_free,
    limited_job_get_available,
    limited_job_get_partition_keys,
    limited_job_get_unlimited,
    limited_job_insert_many,
    limited_job_leave,
    limited_job_park,
    limited_job_release_ended,
    limited_job_retry_many,
    limited_job_set_state_if_running_many,
    limited_job_snooze,
    limited_job_wait_again,
)
from millhand.limits.report_store import limit_get_due_kinds
from millhand.limits.store import limit_list, limit_partition_hold, limit_partition_list, limit_set

pytestmark = pytest.mark.slow

NUM_WAITING = 1_000_000
NUM_PARTITIONS = 100_000
SECONDS = 300.0
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SERVER_SETTINGS = {"jit": "off", "plan_cache_mode": "force_generic_plan"}
# The blocks that a statement may read: a number, and for each row, in the tables of jobs and of limits.
BLOCKS = 1_000
BLOCKS_PER_ROW = 60
SMALL = {"millhand_limit", "river_queue"}
TABLES = ("river_job", "millhand_limit_arrival", "millhand_limit_partition", "millhand_limited_job")

INDEXES = """
SELECT index.indexrelid::regclass::text AS name, pg_get_indexdef(index.indexrelid) AS made_by
FROM pg_index AS index
WHERE index.indrelid IN ('/* schema */river_job'::regclass, '/* schema */millhand_limited_job'::regclass)
AND NOT index.indisprimary
"""
COUNT_INDEXES = "SELECT count(*) FROM pg_index WHERE indrelid = '/* schema */river_job'::regclass"
LIMITS = """
INSERT INTO /* schema */millhand_limit (queue, at_once, total, by_args, by_kind, in_order, is_shared)
VALUES
    ('copied', 1, NULL, '{tenant}', false, true, false),
    ('few', 10, NULL, '{tenant}', false, false, false),
    ('many', 10, NULL, '{tenant}', false, false, false),
    ('ordered', 1, NULL, '{tenant}', false, true, false),
    ('shared', 10, NULL, '{tenant}', false, false, true),
    ('total', 10, 1000, '{tenant}', false, false, false)
"""
# Of each queue: jobs, their state, and whether they wait for a slot (w), for their instant (l), or have a slot (s).
# A job of number n belongs to tenant n.
JOBS = """
CREATE TEMPORARY TABLE filling AS
SELECT
    nextval('/* schema */river_job_id_seq') AS id,
    queue,
    CASE WHEN num_tenants = 0 THEN 'big' ELSE 't' || mod(n, num_tenants) END AS tenant,
    state,
    place,
    timestamptz '2026-11-25 12:00+00' + due + n * interval '1 microsecond' AS due_at
FROM (VALUES
    ('plain', 2000, 'available', '', 1000, interval '-1 hour'),
    ('many', %(waiting)d, 'pending', 'w', 0, '-1 hour'),
    ('many', %(partitions)d, 'pending', 'w', %(partitions)d, '-1 hour'),
    ('many', 1000, 'running', 's', 1000, '-1 hour'),
    ('many', 100, 'completed', 's', 1000, '-1 hour'),
    ('many', 1000, 'available', '', %(partitions)d, '-1 hour'),
    ('few', 10000, 'pending', 'w', 100, '-1 hour'),
    ('few', 100, 'running', 's', 100, '-1 hour'),
    ('total', 10000, 'pending', 'w', 1000, '-1 hour'),
    ('total', 100, 'running', 's', 100, '-1 hour'),
    ('copied', 10000, 'pending', 'w', 1000, '-1 hour'),
    ('copied', 20000, 'available', '', 1000, '-1 hour'),
    ('ordered', 10000, 'pending', 'w', 1000, '-1 hour'),
    ('ordered', 100, 'available', 's', 100, '-1 hour'),
    ('shared', %(partitions)d, 'pending', 'l', 1000, '1 hour'),
    ('shared', 100, 'pending', 'l', 1000, '-1 hour'),
    ('shared', 10000, 'pending', 'w', 1000, '-1 hour'),
    ('shared', 100, 'pending', '', 1000, '-1 hour'),
    ('shared', 100, 'available', 's', 100, '-1 hour'),
    ('shared', 100, 'retryable', 's', 100, '-1 hour'),
    ('shared', 100, 'running', 's', 100, '-1 hour'),
    ('gone', 1000, 'pending', 'w', 1000, '-1 hour')
) AS its (queue, num_jobs, state, place, num_tenants, due),
LATERAL generate_series(1, least(num_jobs, %(most)d)) AS n
WHERE %(which)s;

INSERT INTO /* schema */river_job (
    id, kind, args, max_attempts, queue, state, attempt, attempted_at, attempted_by, scheduled_at, finalized_at
)
SELECT
    id, 'act', jsonb_build_object('tenant', tenant), 25, queue, state::/* schema */river_job_state, 1,
    timestamptz '2026-11-25 12:00+00', '{c}', due_at, CASE WHEN state = 'completed' THEN due_at END
FROM filling;

INSERT INTO /* schema */millhand_limited_job (job_id, queue, partition_key, priority, due_at, is_later, admitted_at)
SELECT
    id, queue, jsonb_build_array(tenant)::text, 1, CASE WHEN queue IN ('copied', 'ordered') THEN '-infinity' ELSE due_at END,
    place = 'l', CASE WHEN place = 's' THEN due_at END
FROM filling
WHERE place <> '';

INSERT INTO /* schema */millhand_limit_partition (queue, partition_key, running, turn)
SELECT queue, jsonb_build_array(tenant)::text, count(*) FILTER (WHERE place = 's'), 0
FROM filling
WHERE place <> ''
GROUP BY queue, tenant
ON CONFLICT (queue, partition_key) DO UPDATE SET running = excluded.running;

INSERT INTO /* schema */millhand_limit_arrival (queue, partition_key)
SELECT queue, jsonb_build_array('t' || n)::text
FROM unnest('{few, many, shared}'::text []) AS queue, generate_series(1, least(%(most)d, 1000)) AS n
WHERE %(which)s;

DROP TABLE filling;
"""


class Measured(NamedTuple):
    """
    What a statement did: blocks read and written, those of the search for available jobs, and the most rows of a node.

    `scanned` are tables that it read as a whole, but for those of limits and of queues, which are small.
    """

    num_blocks: int
    num_dirtied: int
    num_searched: int
    num_read: int
    scanned: tuple[str, ...]


class Filled(NamedTuple):
    """A filled schema, a fetch of its queue without a limit before there were limited jobs, and the indexes of jobs."""

    schema: str
    fetch_before: Measured
    num_indexes: int


@pytest.fixture(scope="module", params=["statistics of now", "statistics of nearly empty tables"])
async def filled(request: pytest.FixtureRequest, module_driver: AsyncpgDriver, postgres_url: str) -> Filled:
    """A schema with limited jobs, as `JOBS` has them."""
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)

    async def run(sql: str) -> None:
        await connection.execute(qualified(sql, module_driver.pool), timeout=SECONDS)

    async def fill(which: str, most: int) -> None:
        await run(JOBS % {"waiting": NUM_WAITING, "partitions": NUM_PARTITIONS, "which": which, "most": most})

    tables = ", ".join(f"/* schema */{name}" for name in TABLES)
    is_stale = request.param != "statistics of now"
    await run("SET synchronous_commit = on; SET maintenance_work_mem = '256MB'")
    for table in TABLES:
        await run(f"ALTER TABLE /* schema */{table} SET (autovacuum_enabled = off)")
    await run(f"TRUNCATE /* schema */millhand_limit, {tables}")
    await run(LIMITS)
    await fill("queue <> 'plain'", 10)
    await run(f"ANALYZE {tables}")
    for table in TABLES:
        await run(f"DELETE FROM /* schema */{table}")
    await fill("queue = 'plain'", NUM_WAITING)
    await run("VACUUM /* schema */river_job")
    fetch_before = await measured(connection, job_get_available(**fetch("plain")), module_driver.schema)
    indexes = await connection.fetch(qualified(INDEXES, module_driver.pool))
    for index in indexes:
        await run(f"DROP INDEX {index['name']}")
    await fill("queue <> 'plain'", NUM_WAITING)
    for index in indexes:
        await run(index["made_by"])
    for table in TABLES:
        await run(f"VACUUM {'' if is_stale else '(ANALYZE)'} /* schema */{table}")
    num_indexes = await connection.fetchval(qualified(COUNT_INDEXES, module_driver.pool))
    await connection.close()
    return Filled(module_driver.schema, fetch_before, num_indexes)


async def plan_now(connection: asyncpg.Connection, query: Query[Any], schema: str) -> None:
    """Prepare a statement under its name, and let the session keep the plan that it makes now."""
    sql, names = compile_statement(query.name, schema, fragments=query.fragments)
    values = f"({', '.join(['NULL'] * len(names))})" if names else ""
    await connection.execute(f"PREPARE {query.name} AS {sql}")
    await connection.execute(f"EXPLAIN EXECUTE {query.name} {values}")


async def measured(
    connection: asyncpg.Connection, query: Query[Any], schema: str, *, is_planned: bool = False
) -> Measured:
    """Run a prepared statement with a generic plan, undo it, and return what it took."""
    sql, names = compile_statement(query.name, schema, fragments=query.fragments)
    parameters = (await connection.prepare(sql)).get_parameters()
    literals = [
        await connection.fetchval(
            f"SELECT quote_nullable(CAST($1 AS {type_name(kind)})::text)", query.params[name]
        )
        for name, kind in zip(names, parameters, strict=True)
    ]
    given = f"({', '.join(literals)})" if literals else ""
    explain = f"EXPLAIN (ANALYZE, TIMING OFF, BUFFERS, FORMAT JSON) EXECUTE {query.name} {given}"
    transaction = connection.transaction()
    await transaction.start()
    if not is_planned:
        await connection.execute(f"PREPARE {query.name} AS {sql}")
    plan_json = await connection.fetchval(explain, timeout=SECONDS)
    await transaction.rollback()
    if not is_planned:
        await connection.execute(f"DEALLOCATE {query.name}")
    nodes = [node for node in as_nodes(plan_json) if node["Actual Loops"]]
    # A part that writes and that no other part reads runs after the others. Its blocks are not among theirs.
    read_parts = {f"CTE {node['CTE Name']}" for node in nodes if "CTE Name" in node}
    counted = [nodes[0]] + [
        node
        for node in nodes[1:]
        if node["Node Type"] == "ModifyTable" and node.get("Subplan Name") not in read_parts
    ]
    one = Measured(
        num_blocks=sum(blocks(node) for node in counted),
        num_dirtied=sum(node["Shared Dirtied Blocks"] for node in counted),
        num_searched=max((blocks(node) for node in nodes if node.get("Index Name") == FETCHING), default=0),
        num_read=int(max(rows_read(node) for node in nodes)),
        scanned=tuple(
            sorted({node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"} - SMALL)
        ),
    )
    milliseconds = json.loads(plan_json)[0]["Execution Time"]
    print(
        f"{query.name:38}{one.num_blocks:>8,} blocks{one.num_dirtied:>6,} written{one.num_read:>10,} read"
        f"{milliseconds:>8.1f} ms  {' '.join(one.scanned)}"
    )
    return one


def blocks(node: Node) -> int:
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])


def type_name(kind: asyncpg.Type) -> str:
    is_array = kind.kind == "array"
    name = kind.name.removesuffix("[]") + ("[]" if is_array else "")
    return name if kind.schema == "pg_catalog" else f"{kind.schema}.{name}"


def fetch(queue: str, limit: int = 100) -> dict[str, Any]:
    return {"queue": queue, "limit": limit, "client_id": ClientId("c"), "now": NOW}


def insert_params(queue: str, tenant: str) -> InsertParams:
    return msgspec.structs.replace(params(), queue=queue, encoded_args=json.dumps({"tenant": tenant}))


def changes(ids: list[JobId]) -> list[StateChange]:
    return [
        StateChange(
            id=id, state=JobState.RETRYABLE, event_kind=EventKind.JOB_FAILED, scheduled_at=NOW, attempted_at=NOW,
            attempted_by="c",
        )
        for id in ids
    ]  # fmt: skip


def statements(ids: list[JobId], shared_ids: list[JobId]) -> dict[str, tuple[Query[Any], int]]:
    """Return the frequent statements, and how many jobs or partitions each writes; `ids` are of a thousand jobs."""
    ends: dict[str, Any] = {"client_id": ClientId("c"), "attempted_ats": [NOW] * 1000, "ids": ids}
    here = {f'["t{n}"]': 1 for n in range(1000)}
    return {
        "fetch of another queue": (job_get_available(**fetch("plain")), 100),
        "admit, a hundred partitions": (limited_job_admit(**fetch("few")), 100),
        "admit": (limited_job_admit(**fetch("many")), 100),
        "admit one job": (limited_job_admit(**fetch("many", 1)), 10),
        "admit a thousand": (limited_job_admit(**fetch("many", 1000)), 1000),
        # It also reads the kinds, of the first job of a partition and of each job.
        "admit known kinds": (limited_job_admit(kinds=["act"], **fetch("many")), 170),
        "admit, beside running jobs here": (
            limited_job_admit(num_running_here=here, **fetch("many", 1000)), 1000
        ),
        "admit in order": (limited_job_admit(**fetch("ordered")), 100),
        "admit in order, before a collect": (limited_job_admit(**fetch("copied")), 10_001),
        "admit under a total": (limited_job_admit(**fetch("total")), 100),
        "admit for other workers": (limited_job_admit_available(queue="shared", limit=1000, now=NOW), 1000),
        "fetch of jobs with slots": (limited_job_get_available(**fetch("shared")), 100),
        "collect": (limited_job_collect("many", now=NOW), 1000),
        "collect known kinds": (limited_job_collect("many", kinds=["act"], now=NOW), 1000),
        "collect arrivals": (limited_job_collect("few", now=NOW), 1000),
        "collect nothing": (limited_job_collect("ordered", now=NOW), 1),
        "insert": (limited_job_insert_many([insert_params("many", "t1")], now=NOW), 1),
        "insert many": (
            limited_job_insert_many([insert_params("many", f"t{n}") for n in range(1000)], now=NOW), 1000
        ),
        "complete one": (
            limited_job_complete_many(
                client_id=ClientId("c"), ids=ids[:1], attempted_ats=[NOW], finalized_ats=[NOW]
            ), 1,
        ),
        "complete": (limited_job_complete_many(finalized_ats=[NOW] * 1000, **ends), 1000),
        "complete and admit": (
            limited_job_complete_and_admit(finalized_ats=[NOW] * 1000, **{**ends, **fetch("many", 1000)}), 2000
        ),
        "complete and admit known kinds": (
            limited_job_complete_and_admit(
                kinds=["act"], finalized_ats=[NOW] * 1000, **{**ends, **fetch("many", 1000)}
            ), 2300,
        ),
        "complete one and admit": (
            limited_job_complete_and_admit(
                ids=ids[:1], attempted_ats=[NOW], finalized_ats=[NOW], **fetch("many", 10)
            ), 20,
        ),
        "delete": (limited_job_delete_completed_many(**ends), 1000),
        "set state": (limited_job_set_state_if_running_many(changes(ids), now=NOW), 1000),
        "set state of shared": (
            limited_job_set_state_if_running_many(changes(shared_ids), shared_ids=shared_ids, now=NOW), 100
        ),
        # These read every job with a slot: 1,700.
        "release": (limited_job_release_ended(), 200),
        "retry of a waiting job": (limited_job_retry_many(ids[:1], now=NOW), 1),
        "snooze of a waiting job": (limited_job_snooze(ids[0], NOW), 1),
        "partitions of running jobs": (limited_job_get_partition_keys(ids), 1000),
        "next kinds": (limit_get_due_kinds(["few", "many", "total"], limit=200), 600),
        "wait again": (limited_job_wait_again(now=NOW), 100),
        "park": (limited_job_park(now=NOW), 100),
        "begin to wait": (limited_job_begin_to_wait(now=NOW), 100),
        "adopt the newest": (limited_job_adopt_newest("shared", num_read=5_000, now=NOW), 100),
        "search for unlimited": (limited_job_get_unlimited(), 1),
        "free": (limited_job_free("gone"), 1000),
        "correct a partition": (limit_partition_correct("many", '["big"]'), 1),
        "correct totals": (limit_correct_totals(), 1000),
        "list limits": (limit_list(), 1),
        "hold a partition": (limit_partition_hold("many", "big", timedelta(seconds=10)), 1),
    }  # fmt: skip


async def statements_of(connection: asyncpg.Connection, schema: str) -> dict[str, tuple[Query[Any], int]]:
    async def running(queue: str, limit: int) -> list[JobId]:
        rows = await connection.fetch(
            f"SELECT id FROM {schema}.river_job WHERE queue = $1 AND state = 'running' ORDER BY id LIMIT $2",
            queue, limit,
        )  # fmt: skip
        return [JobId(row["id"]) for row in rows]

    return statements(await running("many", 1000), await running("shared", 100))


# Each minute, each ten minutes, each hour, and for a person who asks. They read all pending jobs, or all partitions.
RARE: Mapping[str, Query[Any]] = {
    "adopt": limited_job_adopt_pending("shared", now=NOW),
    "leave": limited_job_leave("few", kinds=["other"]),
    "search for differing": limit_partition_get_differing(),
    "delete idle partitions": limit_partition_delete_idle(horizon=NOW - timedelta(days=1)),
    "list partitions": limit_partition_list("many"),
    "set a limit": limit_set("few", Limit(at_once=20, by_args=["tenant"])),
}
# With old statistics the server's own settings let this scan a table.
SCANNING = ("park",)
# Rows that these read, whatever they change: jobs with slots, and the newest jobs.
NUM_READ = {
    "release": 1_700,
    "correct a partition": 1_700,
    "collect nothing": 100,
    "wait again": 1_700,
    "adopt the newest": 5_000,
    # Available jobs that have slots.
    "admit in order": 1_100,
}


@pytest.fixture(params=["server's settings", "our settings"])
async def connection(
    request: pytest.FixtureRequest, postgres_url: str, filled: Filled
) -> AsyncIterator[asyncpg.Connection]:
    settings = PLANNER_SETTINGS if request.param == "our settings" else SERVER_SETTINGS
    connection = await asyncpg.connect(postgres_url, server_settings=settings)
    yield connection
    await connection.close()


async def test_statements_of_limits_read_what_they_change(
    connection: asyncpg.Connection, filled: Filled
) -> None:
    """
    A million waiting jobs slow no statement: each reads some blocks for each job or partition that it changes.

    An admission from a hundred thousand partitions reads as much as one from a hundred. A fetch of a queue without a limit
    reads what it read before there were limited jobs. Nothing compares each with each.
    """
    hot = await statements_of(connection, filled.schema)
    is_ours = await connection.fetchval("SHOW enable_seqscan") == "off"
    for name in () if is_ours else SCANNING:
        del hot[name]
    took = {name: await measured(connection, query, filled.schema) for name, (query, _) in hot.items()}
    num_rows = {name: max(num, NUM_READ.get(name, 0)) for name, (_, num) in hot.items()}
    for query in RARE.values():
        await measured(connection, query, filled.schema)

    assert {
        name: one for name, one in took.items() if one.num_blocks > BLOCKS + BLOCKS_PER_ROW * num_rows[name]
    } == {}
    assert {name: one for name, one in took.items() if one.num_read > BLOCKS + 11 * num_rows[name]} == {}
    assert {name: one.scanned for name, one in took.items() if is_ours and one.scanned} == {}
    # The index has a level more, is built anew, and has what other statements left. A scan of other queues reads thousands.
    assert took["fetch of another queue"].num_searched <= filled.fetch_before.num_searched + 40
    # Each job is found in one index and entered in all. Each of these may have a level more, which is one block more.
    most = filled.fetch_before.num_blocks + fetch("plain")["limit"] * (1 + filled.num_indexes)
    assert took["fetch of another queue"].num_blocks <= most
    assert took["admit"].num_blocks <= 1.5 * took["admit, a hundred partitions"].num_blocks


async def test_plans_for_empty_tables_compare_nothing_with_each_other(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """Plans that a session made before the first job are kept: with a thousand partitions they still read each once."""
    schema, pool = schema_driver.schema, schema_driver.pool
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)
    empty = statements([JobId(n) for n in range(1, 1001)], [JobId(1)])
    for query in {query.name: query for query, _ in empty.values()}.values():
        await plan_now(connection, query, schema)
    await connection.execute(qualified(LIMITS, pool))
    filling = JOBS % {"waiting": 2_000, "partitions": 1_000, "which": "TRUE", "most": 2_000}
    await connection.execute(qualified(filling, pool), timeout=SECONDS)

    hot = await statements_of(connection, schema)
    took = {
        name: await measured(connection, query, schema, is_planned=True) for name, (query, _) in hot.items()
    }
    await connection.close()

    num_rows = {name: max(num, NUM_READ.get(name, 0)) for name, (_, num) in hot.items()}
    assert {name: one for name, one in took.items() if one.num_read > BLOCKS + 11 * num_rows[name]} == {}
    assert {
        name: one for name, one in took.items() if one.num_blocks > BLOCKS + BLOCKS_PER_ROW * num_rows[name]
    } == {}
