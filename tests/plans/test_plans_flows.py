"""Plans at a million open tasks of a hundred thousand flows: no statement reads more than its own tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from plan_recorder import Plan, PlanRecorder

from factory import qualified
from millhand.core.job import JobId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.flows.flow import FlowState, RetryMode, TaskState
from millhand.flows.report_store import flow_list_stuck
from millhand.flows.store import (
    flow_cancel_jobs,
    flow_count_again,
    flow_count_ended,
    flow_delete_ended,
    flow_get_cancelled,
    flow_get_outputs,
    flow_list,
    flow_lock,
    flow_lock_of_jobs,
    flow_release,
    flow_retry_jobs,
    flow_task_get_ended,
    flow_task_get_ends,
    flow_task_get_recently_ended,
    flow_task_list,
)

pytestmark = pytest.mark.slow

NUM_FLOWS = 100_000
TASKS_OF_FLOW = 10
NUM_TASKS = NUM_FLOWS * TASKS_OF_FLOW
LIMIT = 500
SECONDS = 300.0
# Flows that are younger than this are stuck too.
FILLED_LATER = datetime.now(UTC) + timedelta(days=1)
NUM_LEFT_OUT = 1
# The blocks to find one row by an index or to change it in all indexes of its table.
BLOCKS_PER_TASK = 60
# The jobs are inserted without their indexes.
INDEXES = """
SELECT index.indexrelid::regclass::text AS name, pg_get_indexdef(index.indexrelid) AS made_by
FROM pg_index AS index
WHERE index.indrelid = '/* schema */river_job'::regclass AND NOT index.indisprimary
"""
# Of each flow, eight tasks run, the ninth waits for them, and the tenth for that.
FILL = f"""
INSERT INTO /* schema */river_job (
    kind, args, max_attempts, metadata, state, attempt, attempted_at, attempted_by, scheduled_at
)
SELECT
    'act', '{{}}', 25, jsonb_build_object('workflow_id', (n / {TASKS_OF_FLOW} + 1)::text),
    CASE WHEN n % {TASKS_OF_FLOW} < 8 THEN 'running' ELSE 'pending' END::/* schema */river_job_state,
    CASE WHEN n % {TASKS_OF_FLOW} < 8 THEN 1 ELSE 0 END, now(), '{{c}}', now()
FROM generate_series(0, {NUM_TASKS} - 1) AS n;

INSERT INTO /* schema */millhand_flow (id, name, num_tasks, num_open)
SELECT n, 'flow', {TASKS_OF_FLOW}, {TASKS_OF_FLOW} FROM generate_series(1, {NUM_FLOWS}) AS n;

INSERT INTO /* schema */millhand_flow_join (id, flow_id, num_open)
SELECT 2 * n + part, n, CASE part WHEN 0 THEN 8 ELSE 1 END
FROM generate_series(1, {NUM_FLOWS}) AS n, generate_series(0, 1) AS part;

INSERT INTO /* schema */millhand_flow_task (job_id, flow_id, state, after_join_id, task_when, join_ids)
SELECT
    n + 1, flow,
    CASE WHEN part < 8 THEN 'released' ELSE 'waiting' END,
    CASE part WHEN 8 THEN 2 * flow WHEN 9 THEN 2 * flow + 1 END,
    CASE WHEN part >= 8 THEN 'completed' END,
    CASE WHEN part < 8 THEN ARRAY[2 * flow] WHEN part = 8 THEN ARRAY[2 * flow + 1] ELSE '{{}}' END
FROM generate_series(0, {NUM_TASKS} - 1) AS n,
LATERAL (SELECT n / {TASKS_OF_FLOW} + 1 AS flow, n % {TASKS_OF_FLOW} AS part) AS place;

-- A flow in a thousand has ended long ago.
UPDATE /* schema */millhand_flow SET ended_at = now() - interval '8 days' WHERE id % 1000 = 0;
"""


@pytest.fixture(scope="module")
async def recorder(module_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[PlanRecorder]:
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)
    pool = module_driver.pool
    indexes = await pool.fetch(qualified(INDEXES, pool))
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['name']}")
    await connection.execute(qualified(FILL, pool), timeout=SECONDS)
    for index in indexes:
        await connection.execute(index["made_by"], timeout=SECONDS)
    for table in ("river_job", "millhand_flow", "millhand_flow_join", "millhand_flow_task"):
        await connection.execute(f"VACUUM (ANALYZE) {module_driver.schema}.{table}", timeout=SECONDS)
    yield PlanRecorder(connection, module_driver.schema)
    await connection.close()


@pytest.fixture
async def plans(recorder: PlanRecorder) -> AsyncIterator[list[Plan]]:
    """Plans of statements in a transaction that is rolled back: an explained UPDATE is executed."""
    recorder.plans.clear()
    transaction = recorder.connection.transaction()
    await transaction.start()
    yield recorder.plans
    await transaction.rollback()


def jobs_of(*flow_ids: int, parts: range = range(8)) -> list[JobId]:
    return [JobId((id - 1) * TASKS_OF_FLOW + part + 1) for id in flow_ids for part in parts]


def assert_small(plans: list[Plan], num_tasks: int) -> None:
    assert [plan.name for plan in plans if plan.seq_scans] == []
    too_large = [
        (plan.name, plan.num_blocks) for plan in plans if plan.num_blocks > BLOCKS_PER_TASK * num_tasks
    ]
    assert too_large == []


async def test_count_and_release_read_the_tasks_of_a_batch(recorder: PlanRecorder, plans: list[Plan]) -> None:
    """A batch of five hundred flows is counted and its tasks are released by indexes alone."""
    flow_ids = [*range(1, NUM_FLOWS, NUM_FLOWS // LIMIT)]
    ends = dict.fromkeys(jobs_of(*flow_ids), TaskState.COMPLETED)

    await recorder.run(flow_lock_of_jobs(ends))
    await recorder.run(flow_task_get_ends(ends, flow_ids))
    # Both are executed by their explanation, and the second time they find nothing.
    await recorder.run(flow_count_ended(ends))
    await recorder.run(flow_release([2 * id for id in flow_ids]))

    assert_small(plans, len(ends))
    assert await recorder.fetch(
        qualified("SELECT count(*) AS num FROM /* schema */river_job WHERE state = 'available'", recorder)
    ) == [{"num": LIMIT}]


async def test_leader_reads_a_part_of_the_tasks(recorder: PlanRecorder, plans: list[Plan]) -> None:
    """Each part of the walk reads its own tasks, wherever it begins; the rest of a pass reads what ended lately."""
    walk = await recorder.run(flow_task_get_ended((0, 0), limit=LIMIT))
    await recorder.run(flow_task_get_ended((NUM_FLOWS // 2, 0), limit=LIMIT))
    await recorder.run(flow_task_get_recently_ended(within=timedelta(seconds=5), limit=LIMIT))
    await recorder.run(flow_get_cancelled())

    assert walk.num_walked == LIMIT
    assert_small(plans[:2], LIMIT)
    assert_small(plans[2:3], 10)


async def test_doctor_reads_a_task_of_each_flow_that_goes_on(
    recorder: PlanRecorder, plans: list[Plan]
) -> None:
    """Of flows that go on, one task is read. Of one that does not, all tasks are."""
    query = flow_list_stuck(before=FILLED_LATER, num_flows=LIMIT, num_tasks=NUM_TASKS)
    assert await recorder.run(query) == ([], NUM_LEFT_OUT)
    assert_small(plans, LIMIT)

    await recorder.fetch(
        qualified(
            "UPDATE /* schema */river_job SET state = 'completed', finalized_at = now() WHERE id <= 8",
            recorder,
        )
    )
    [stuck], _ = await recorder.run(query)
    assert (stuck.id, stuck.ended_job_id) == (1, 1)
    assert_small(plans, LIMIT + TASKS_OF_FLOW)


async def test_cancel_and_retry_read_one_flow(recorder: PlanRecorder, plans: list[Plan]) -> None:
    """A change of one flow reads its own tasks."""
    await recorder.run(flow_lock(77))
    await recorder.run(flow_cancel_jobs(77, limit=LIMIT))
    for mode in RetryMode:
        await recorder.run(flow_retry_jobs(77, mode))
    await recorder.run(flow_count_again(77))

    assert_small(plans, TASKS_OF_FLOW)


async def test_list_reads_a_page(recorder: PlanRecorder, plans: list[Plan]) -> None:
    """A page of flows, of those that run and of a flow's tasks, and the outputs of parents, read no more than that."""
    await recorder.run(flow_list(limit=100))
    await recorder.run(flow_list(limit=100, before_id=NUM_FLOWS // 2))
    await recorder.run(flow_list(state=FlowState.RUNNING, limit=100))
    await recorder.run(flow_task_list(77, limit=LIMIT))
    await recorder.run(flow_get_outputs(jobs_of(77, parts=range(8, 9))[0], limit=LIMIT))

    assert_small(plans, 100)


async def test_delete_reads_the_flows_that_ended(recorder: PlanRecorder, plans: list[Plan]) -> None:
    """A batch of the cleaner finds old flows by an index, and their tasks and joins."""
    num = await recorder.run(flow_delete_ended(horizon=datetime.now(UTC) - timedelta(days=7), limit=50))

    assert num == 50
    assert_small(plans, 50 * TASKS_OF_FLOW)
