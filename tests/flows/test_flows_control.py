"""Claims about the control of flows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from client_harness import GENEROUS, Act, ClientHarness
from factory import qualified
from flow_world import FlowWorld, Node
from millhand.core.errors import MillhandError
from millhand.core.job import JobState
from millhand.core.worker import Workers
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_delete_before
from millhand.flows.capability import UNNEEDED
from millhand.flows.flow import Flow, FlowState


async def test_cancel_and_retry(harness: ClientHarness) -> None:
    """A cancelled flow ends all of its jobs, and each mode of a retry runs its tasks again."""
    flow = Flow("retried")
    first = flow.add(Act("first"))
    flow.add(Act("second"), after=first)
    client = harness.client(Workers(), queues={})
    async with client:
        inserted = await client.insert_flow(flow)
        cancelled = await client.flows.cancel(inserted.id)
        retried = await client.flows.retry(inserted.id, mode="all")
        tasks = await client.flows.tasks(inserted.id)

    assert (cancelled.state, cancelled.num_failed) == (FlowState.CANCELLED, 2)
    assert (retried.state, retried.num_open, retried.num_failed) == (FlowState.RUNNING, 2, 0)
    assert [(task.name, task.state.value, task.job.state.value) for task in tasks if task.job] == [
        ("act", "released", "available"),
        ("act_2", "waiting", "pending"),
    ]


@pytest.mark.slow
async def test_retried_task_after_an_empty_group_is_released_at_once(harness: ClientHarness) -> None:
    """The empty group has no task that a count would find, and what waits for it is released without the leader."""
    flow = Flow("empty")
    flow.add(Act("only"), after=flow.add_many([]))
    async with harness.client(Workers(), queues={}) as client:
        inserted = await client.insert_flow(flow)
        await client.flows.cancel(inserted.id)
        await client.flows.retry(inserted.id, mode="all")
        [task] = await client.flows.tasks(inserted.id)

    assert (task.state.value, task.job and task.job.state.value) == ("released", "available")


async def test_retry_wakes_the_leader(harness: ClientHarness) -> None:
    """A leader without flows that run looks once a minute, and a retry of one that has ended wakes it as an insert does."""
    flow = Flow("ended")
    flow.add(Act("only"))
    payloads: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(harness.url)
    async with asyncio.timeout(GENEROUS), harness.client(Workers(), queues={}) as client:
        inserted = await client.insert_flow(flow)
        await client.flows.cancel(inserted.id)
        await connection.add_listener("public.millhand_leader", lambda *given: payloads.put_nowait(given[3]))
        await client.flows.retry(inserted.id, mode="all")
        payload = await payloads.get()
    await connection.close()

    assert payload == '{"action":"flow_inserted"}'


async def failed_import(tx: Executor) -> tuple[FlowWorld, int]:
    """Return the id of a flow in which one of three parts was discarded, and the task that waits for them cancelled."""
    world = FlowWorld(tx)
    row = await world.insert([Node(size=3), Node(frozenset({0}))])
    first, second, failing = sorted(await world.fetch(), key=lambda job: job.id)
    await world.complete([first, second])
    await world.end([failing], JobState.DISCARDED)
    return world, row.id


async def test_retry_runs_all_tasks_again_days_later(tx: Executor) -> None:
    """The leader keeps the jobs of a flow that failed for as long as the flow can be retried."""
    world, id = await failed_import(tx)
    horizon = datetime.now(UTC) + timedelta(days=1)

    await tx.run(
        job_delete_before(
            cancelled_horizon=horizon,
            completed_horizon=horizon,
            discarded_horizon=horizon,
            kept=[UNNEEDED],
            limit=100,
        )
    )
    retried = await world.control.retry(id)

    assert retried.num_open == 2
    assert await world.states() == [
        ("completed", "completed"),
        ("completed", "completed"),
        ("released", "available"),
        ("waiting", "pending"),
    ]


@pytest.mark.parametrize("mode", ["failed_and_downstream", "all"])
async def test_retry_without_the_job_of_a_task_changes_nothing(tx: Executor, mode: str) -> None:
    """A Go leader or a person has deleted the job of the last task. Only what failed itself can run again."""
    world, id = await failed_import(tx)
    await tx.fetch(
        qualified("DELETE FROM /* schema */river_job WHERE id = $1", tx), [(await world.job_ids())[-1]]
    )
    before = await world.states()

    with pytest.raises(MillhandError) as refused:
        await world.control.retry(id, mode=mode)
    after = await world.states()
    retried = await world.control.retry(id, mode="failed_only")

    assert str(refused.value) == (
        f"tasks must have their jobs to run again, got 1 in flow {id} without; insert the flow anew, or use mode "
        "failed_only"
    )
    assert (after, retried.num_open) == (before, 1)
