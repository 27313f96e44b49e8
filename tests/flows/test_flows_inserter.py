"""Claims about the insert of flows."""

from __future__ import annotations

import asyncpg
import pytest

from client_harness import Act, ClientHarness
from millhand.core.errors import ConfigError, InvalidJob
from millhand.core.insert_opts import InsertOpts
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.flows.flow import Flow, FlowState


@pytest.mark.slow
async def test_flow_is_part_of_the_callers_transaction(harness: ClientHarness) -> None:
    """After a rollback nothing is left, and after a commit all of it is there."""
    async with harness.client(Workers(), queues={}) as client:
        connection = await asyncpg.connect(harness.url)
        try:
            transaction = connection.transaction()
            await transaction.start()
            await client.insert_flow(_chain(), tx=connection)
            await transaction.rollback()
            rolled_back = await client.flows.list()
            async with connection.transaction():
                row = await client.insert_flow(_chain(), tx=connection)
            tasks = await client.flows.tasks(row.id)
        finally:
            await connection.close()

    assert rolled_back == []
    assert [(task.name, task.deps, task.when) for task in tasks] == [
        ("act", (), None),
        ("act_2", ["act"], "completed"),
    ]


def _chain() -> Flow:
    flow = Flow("chain")
    flow.add(Act("second"), after=flow.add(Act("first")))
    return flow


async def test_insert_leaves_the_settings_of_the_callers_transaction(harness: ClientHarness) -> None:
    """Also if it skips a task, and so counts one: the caller may think for longer than Millhand's own transactions."""
    flow = Flow("empty")
    flow.add(Act("failed"), after=flow.add_many([]), when="failed")
    names = ("idle_in_transaction_session_timeout", "lock_timeout")
    async with harness.client(Workers(), queues={}) as client:
        connection = await asyncpg.connect(harness.url)
        try:
            async with connection.transaction():
                before = [await connection.fetchval(f"SHOW {name}") for name in names]
                row = await client.insert_flow(flow, tx=connection)
                after = [await connection.fetchval(f"SHOW {name}") for name in names]
        finally:
            await connection.close()
        [task] = await client.flows.tasks(row.id)

    assert (task.state.value, after) == ("skipped", before)


async def test_tasks_of_an_empty_set_are_decided_at_once(harness: ClientHarness) -> None:
    """`completed` and `ended` go on after an empty group, and `failed` is skipped."""
    flow = Flow("empty")
    none = flow.add_many([])
    flow.add(Act("completed"), after=none)
    flow.add(Act("ended"), after=none, when="ended")
    flow.add(Act("failed"), after=none, when="failed")
    async with harness.client(Workers(), queues={}) as client:
        row = await client.insert_flow(flow)
        tasks = await client.flows.tasks(row.id)

    assert [(task.job.args["what"], task.state.value) for task in tasks if task.job] == [
        ("completed", "released"),
        ("ended", "released"),
        ("failed", "skipped"),
    ]


async def test_flow_of_empty_groups_has_completed(harness: ClientHarness) -> None:
    """A flow without a task ends with its insert, because no task ends it later."""
    flow = Flow("nothing")
    flow.add_many([])
    async with harness.client(Workers(), queues={}) as client:
        row = await client.insert_flow(flow)

    assert (row.state, row.num_tasks, row.ended_at is not None) == (FlowState.COMPLETED, 0, True)


@pytest.mark.slow
async def test_schema_with_workflows_of_river_pro_is_refused(harness: ClientHarness) -> None:
    """Its engine would take the tasks for its own."""
    await harness.execute("CREATE TABLE river_workflow (id text)")
    try:
        async with harness.client(Workers(), queues={}) as client:
            with pytest.raises(ConfigError) as refused:
                await client.insert_flow(_chain())
    finally:
        await harness.execute("DROP TABLE river_workflow")

    assert str(refused.value) == (
        "flows must not be inserted where River Pro has its workflows, got table river_workflow in the schema: its engine "
        "would take their tasks for its own; use another schema"
    )
    assert await harness.rows() == []


async def test_tasks_are_neither_unique_nor_pending_and_a_flow_is_inserted_once(
    harness: ClientHarness,
) -> None:
    """Each mistake has an error, and inserts nothing."""
    unique, pending, named, again = Flow("unique"), Flow("pending"), Flow("named"), _chain()
    unique.add(Act("x"), InsertOpts(unique=UniqueOpts(by_args=True)))
    pending.add(Act("x"), InsertOpts(pending=True))
    named.add(Act("x"), InsertOpts(metadata={"task": "mine"}))
    messages = []
    async with harness.client(Workers(), queues={}) as client:
        await client.insert_flow(again)
        for flow in (unique, pending, named, again):
            with pytest.raises(InvalidJob) as refused:
                await client.insert_flow(flow)
            messages.append(str(refused.value))

    assert messages == [
        (
            "a task must not be unique, got kind 'act': a duplicate would belong to two flows; write "
            "InsertOpts(unique=UniqueOpts())"
        ),
        "a task must not be pending, got kind 'act'; write after=…",
        "metadata of a task must not use the keys of flows, got 'task'",
        "flow must be inserted once, got Flow('chain') again; build another Flow",
    ]
    assert len(await harness.rows()) == 2
