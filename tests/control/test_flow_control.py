"""Claims about the control of flows."""

from __future__ import annotations

import asyncio

import asyncpg

from client_harness import GENEROUS, Act, ClientHarness
from millhand.flow import Flow, FlowState
from millhand.worker import Workers


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


async def test_retried_task_after_an_empty_group_is_released_at_once(harness: ClientHarness) -> None:
    """The empty group has no task that a count would find, and what waits for it goes on without the leader."""
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
