"""Plans among hundreds of thousands of dead rows, which an open transaction keeps."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from test_plans import FETCHING, HOT, NOW, Node, as_nodes, explain, is_scan_of_all

from millhand.core.job import ClientId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.db.driver.protocol import Driver
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.db.query import Query
from millhand.db.sql import compile_statement
from millhand.engine.fetch_start import has_read_much
from millhand.engine.store.job import (
    CountedFetch,
    FetchStart,
    job_get_available,
    job_get_available_after,
    job_get_available_counted,
)

pytestmark = pytest.mark.slow

NUM_WORKED = 100_000  # each leaves three dead versions with entries in each index
NUM_AVAILABLE = 2_000
LIMIT = 100
START_AFTER = FetchStart(NOW - timedelta(hours=1), 0)  # after all worked jobs

INSERT = """
INSERT INTO /* schema */river_job (kind, args, max_attempts, queue, scheduled_at)
SELECT 'act', '{}', 25, 'queue_1', timestamptz '2026-11-25 12:00+00' - interval '2 hours' + n * interval '1 millisecond'
FROM generate_series(1, %d) AS n
"""
WORK = """
UPDATE /* schema */river_job SET state = 'running', attempted_at = now(), attempted_by = '{c}';
UPDATE /* schema */river_job SET state = 'running', attempt = 1;
UPDATE /* schema */river_job SET state = 'completed', finalized_at = now();
"""
INSERT_LATER = """
INSERT INTO /* schema */river_job (kind, args, max_attempts, queue, scheduled_at)
SELECT 'act', '{}', 25, 'queue_1', timestamptz '2026-11-25 12:00+00' - interval '1 minute' + n * interval '1 millisecond'
FROM generate_series(1, %d) AS n
"""


@pytest.fixture(scope="module")
async def dead(module_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[AsyncpgDriver]:
    """A schema with far more dead rows than others, while an older snapshot is open."""
    pool, schema = module_driver.pool, module_driver.schema
    await pool.execute_script(INSERT % NUM_WORKED, timeout_seconds=120)
    idle = await asyncpg.connect(postgres_url)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(idle.close)
        await stack.enter_async_context(idle.transaction(isolation="repeatable_read"))
        await idle.fetch(f"SELECT id FROM {schema}.river_job LIMIT 1")
        await pool.execute_script(WORK, timeout_seconds=120)
        await pool.execute_script(INSERT_LATER % NUM_AVAILABLE, timeout_seconds=120)
        await pool.execute_script(f"VACUUM (ANALYZE) {schema}.river_job", timeout_seconds=120)
        yield module_driver


@pytest.fixture
async def connection(postgres_url: str, dead: AsyncpgDriver) -> AsyncIterator[asyncpg.Connection]:
    """A connection with Millhand's planner settings, in a transaction that is rolled back."""
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def test_hot_statements_use_their_indexes_among_dead_rows(
    connection: asyncpg.Connection, dead: AsyncpgDriver
) -> None:
    """Whatever the statistics, no frequent statement scans the whole table."""
    for name, (query, indexes) in HOT.items():
        plan = await explain(connection, query, dead.schema)

        assert {node["Index Name"] for node in plan if "Index Name" in node} <= indexes, name
        scans = [node["Node Type"] for node in plan if is_scan_of_all(node)]
        assert name.startswith("list") or scans == [], name


async def test_fetch_after_starts_reads_no_dead_entries(
    connection: asyncpg.Connection, dead: AsyncpgDriver
) -> None:
    """A fetch from the beginning reads the entries of all finished jobs; one after the starts only what it takes."""
    wanted: dict[str, Any] = {"queue": "queue_1", "limit": LIMIT, "client_id": ClientId("c"), "now": NOW}

    from_start = await measured(connection, job_get_available(**wanted), dead.schema)
    above = await measured(connection, job_get_available_after((START_AFTER,) * 4, **wanted), dead.schema)

    print("blocks of a fetch from the start, and above the starts:", from_start, above)
    assert from_start > NUM_WORKED / 100
    assert above < LIMIT / 10


async def test_counted_fetch_counts_dead_entries(postgres_url: str, dead: AsyncpgDriver) -> None:
    """However fast a fetch was, it counts each dead entry, also if there is no job; in another queue it counts few."""
    other = PsycopgDriver(postgres_url, dead.schema)
    await other.open()
    for driver in (dead, other):
        found = await counted(driver, "queue_1", NOW)
        none = await counted(driver, "queue_1", START_AFTER.at)  # before all available jobs
        elsewhere = await counted(driver, "queue_2", NOW)

        assert (len(found.jobs), none.jobs, elsewhere.jobs) == (LIMIT, [], [])
        assert min(found.num_entries, none.num_entries) >= NUM_WORKED
        much = [has_read_much(one.num_blocks, one.num_entries) for one in (found, none, elsewhere)]
        assert much == [True, True, False]
    await other.close()


async def counted(driver: Driver, queue: str, now: datetime) -> CountedFetch:
    """Make a counted fetch, and undo it."""
    fetch = job_get_available(queue=queue, limit=LIMIT, client_id=ClientId("c"), now=now)
    undone: list[CountedFetch] = []
    with contextlib.suppress(Undo):
        async with driver.pool.begin() as tx:
            undone.append(await tx.run(job_get_available_counted(fetch)))
            raise Undo
    return undone[0]


class Undo(Exception):
    """Rolls a transaction back."""


async def measured(connection: asyncpg.Connection, query: Query[Any], schema: str) -> int:
    """Run a fetch, undo it, and return how many blocks it read for its search."""
    sql, names = compile_statement(query.name, schema)
    values = [query.params[name] for name in names]
    transaction = connection.transaction()
    await transaction.start()
    plan = as_nodes(await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *values))
    await transaction.rollback()
    [scan] = [node for node in plan if node.get("Index Name") == FETCHING]
    assert scan["Actual Rows"] == LIMIT
    return blocks(scan)


def blocks(node: Node) -> int:
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])
