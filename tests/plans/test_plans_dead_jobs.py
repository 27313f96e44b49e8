"""What the statements of dead letters read of a hundred thousand of them, beside as many jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import pytest
from plan_recorder import Plan, PlanRecorder

from factory import qualified
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.db.query import parse_none
from millhand.dead_jobs.capability import COPIED
from millhand.dead_jobs.dead_job import DeadJobFilters
from millhand.dead_jobs.page_store import dead_job_exists, dead_job_get_details, dead_job_list_lines
from millhand.dead_jobs.store import (
    dead_job_begin,
    dead_job_copy,
    dead_job_copy_settings,
    dead_job_delete_before,
    dead_job_delete_retried,
    dead_job_end,
    dead_job_get,
    dead_job_list,
    dead_job_lock,
    dead_job_remove,
    dead_job_restore,
)
from millhand.engine.store.job import job_delete_before

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
NUM_ROWS = 100_000
PAGE = 1_000
FILL = f"""
INSERT INTO /* schema */river_job (kind, queue, args, max_attempts, attempt, state, finalized_at, errors)
SELECT 'kind_' || n % 50, 'queue_' || n % 7, '{{}}', 25, 25,
    CASE WHEN n % 2 = 0 THEN 'discarded' ELSE 'completed' END::/* schema */river_job_state,
    timestamptz '2026-03-10 12:00Z' - n * interval '1 s', ARRAY[jsonb_build_object('error', 'ValueError: ' || n)]
FROM generate_series(1, {NUM_ROWS}) AS n;
INSERT INTO /* schema */millhand_dead_job (
    id, attempt, max_attempts, created_at, finalized_at, scheduled_at, priority, args, errors, kind, metadata, queue, tags
)
SELECT n, 25, 25, at, at, at, 1, '{{}}', ARRAY[jsonb_build_object('error', 'ValueError: ' || n)],
    'kind_' || n % 50, '{{}}', 'queue_' || n % 7, '{{}}'
FROM generate_series(1, {NUM_ROWS}) AS n, LATERAL (SELECT timestamptz '2026-03-10 12:00Z' - n * interval '1 s' AS at) AS t;
"""
FILL_FAST = """
INSERT INTO /* schema */river_job (kind, args, max_attempts, attempt, state, finalized_at)
SELECT 'k', '{}', 25, 25, 'discarded', now() - n * interval '6 ms' FROM generate_series(1, 10000) AS n
"""


@pytest.mark.slow
async def test_statements_read_what_they_return(module_driver: AsyncpgDriver, postgres_url: str) -> None:
    """A page reads a page, and no statement reads all jobs or all dead letters."""
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)
    schema = module_driver.schema
    plans: dict[str, Plan] = {}
    try:
        await connection.execute(qualified(FILL, module_driver.pool))
        await connection.execute(f"VACUUM (ANALYZE) {schema}.river_job, {schema}.millhand_dead_job")
        recorder = PlanRecorder(connection, schema)
        # Explained statements are executed: all of it is rolled back.
        transaction = connection.transaction()
        await transaction.start()
        middle = NOW - timedelta(seconds=NUM_ROWS // 2)
        kind = DeadJobFilters(kinds=["kind_7"])
        deletion = job_delete_before(
            cancelled_horizon=None, completed_horizon=None, discarded_horizon=NOW, kept=[COPIED], limit=PAGE
        )
        for name, query in {
            "begin": dead_job_begin(),
            "copy": dead_job_copy(after_at=middle.isoformat(), after_id=0, limit=PAGE, retention=None),
            "copy again": dead_job_copy(after_at=middle.isoformat(), after_id=0, limit=PAGE, retention=None),
            "end": dead_job_end(seen_at=NOW, seen_xid="7", settled_to=NOW, is_seen=True),
            "list": dead_job_list(DeadJobFilters()),
            "list on": dead_job_list(DeadJobFilters(), after=(middle, 7)),
            "list of a kind": dead_job_list(kind),
            "list of a kind on": dead_job_list(kind, after=(middle, 7)),
            "list of a time": dead_job_list(
                DeadJobFilters(since=middle, until=middle + timedelta(minutes=1))
            ),
            "lines on": dead_job_list_lines(DeadJobFilters(), after=(middle, 7), limit=100, args_length=400),
            "get": dead_job_get(77),
            "details": dead_job_get_details(77),
            "exists": dead_job_exists(77),
            "lock": dead_job_lock(77),
            "remove": dead_job_remove(77),
            "restore": msgspec.structs.replace(dead_job_restore(77), parse=parse_none),
            "delete retried": dead_job_delete_retried(after_id=NUM_ROWS // 2, limit=PAGE),
            "delete old": dead_job_delete_before(
                retention=timedelta(hours=1), limit=PAGE, now=NOW - timedelta(hours=1)
            ),
            "clean": deletion,
        }.items():
            await recorder.run(query)
            plans[name] = recorder.plans[-1]
        await transaction.rollback()
    finally:
        await connection.close()

    of_pages = {"copy", "copy again", "delete retried", "delete old", "clean"}
    blocks_max = {name: 25 * PAGE if name in of_pages else 1_000 for name in plans}
    assert {name: plan.num_blocks for name, plan in plans.items() if plan.num_blocks > blocks_max[name]} == {}
    assert [name for name, plan in plans.items() if plan.scans_all] == []
    assert plans["list"].indexes == {"millhand_dead_job_finalized_at_idx", "river_job_pkey"}
    assert plans["list of a kind"].indexes == {"millhand_dead_job_kind_idx", "river_job_pkey"}
    assert "river_job_state_and_finalized_at_index" in plans["copy"].indexes
    assert {name: plan.num_read for name, plan in plans.items() if plan.num_read > 2 * PAGE} == {}


@pytest.mark.slow
async def test_pages_are_read_in_order_without_statistics(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """Ten thousand discards of a minute, which no ANALYZE has seen: each page reads itself and not all of them."""
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)
    try:
        await connection.execute(qualified(FILL_FAST, schema_driver.pool))
        recorder = PlanRecorder(connection, schema_driver.schema)
        at, id, num_copied = "-infinity", 0, 0
        for _ in range(10):
            async with recorder.begin():
                await recorder.run(dead_job_copy_settings())
                page = await recorder.run(dead_job_copy(after_at=at, after_id=id, limit=PAGE, retention=None))
            assert page.last_at is not None
            assert page.last_id is not None
            at, id, num_copied = page.last_at, page.last_id, num_copied + page.num_read
    finally:
        await connection.close()

    read = [plan.num_read for plan in recorder.plans if plan.name == "dead_job_copy"]
    assert num_copied == 10 * PAGE
    assert max(read) < 2 * PAGE
