"""Flows for the tests of the page, and the flows of an invented shop: one runs, one has failed, one has completed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from factory import qualified
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobId
from millhand.db.driver.protocol import Executor
from millhand.engine.inserter import Inserter
from millhand.flows.flow import Flow, FlowRow, FlowTask, TaskState
from millhand.flows.inserter import insert_flow
from millhand.flows.resolver import count_ended
from millhand.flows.store import flow_task_list

SET_STATE = """
UPDATE /* schema */river_job
SET
    state = $2::text::/* schema */river_job_state, attempt = 1, attempted_by = ARRAY['shop-worker-1'],
    attempted_at = now() - interval '40 s', finalized_at = CASE WHEN $2::text <> 'running' THEN now() - interval '9 s' END
WHERE id = ANY($1::bigint[])
"""
# Each job is the only task of a flow that has the job's id.
OF_JOBS = """
INSERT INTO /* schema */millhand_flow (id, name, num_tasks, num_open) SELECT id, $1, 1, 1 FROM /* schema */river_job
"""
TASKS_OF_JOBS = """
INSERT INTO /* schema */millhand_flow_task (job_id, flow_id, state, join_ids)
SELECT id, id, 'released', '{}' FROM /* schema */river_job
"""
AGED = "UPDATE /* schema */millhand_flow SET created_at = now() - $1::interval WHERE id = $2"


def shop_import(name: str, num_parts: int = 40) -> tuple[Flow, FlowTask]:
    """Return a flow that imports a feed in parts, and the task of its first job."""
    flow, queue = Flow(name), InsertOpts(queue="imports")
    fetch = flow.add(RawArgs("fetch_feed", '{"feed": 9}'), queue)
    parts = flow.add_many(
        [(RawArgs("import_part", f'{{"part": {number}}}'), queue) for number in range(num_parts)],
        after=fetch,
        name="part",
    )
    sum_up = flow.add(RawArgs("sum_up", "{}"), queue, after=parts)
    flow.add(RawArgs("send_email", '{"to": "ada@shop.example"}'), InsertOpts(queue="mail"), after=sum_up)
    flow.add(RawArgs("alert", "{}"), after=parts, when="failed")
    flow.add(RawArgs("delete_files", "{}"), queue, after=[parts, sum_up], when="ended")
    return flow, fetch


async def put_flow(executor: Executor, flow: Flow) -> tuple[FlowRow, list[JobId]]:
    """Insert a flow, and return it with the ids of its jobs."""
    row = await insert_flow(flow, Inserter(executor, Config()), executor)
    return row, [task.job_id for task in await executor.run(flow_task_list(row.id, limit=1_000))]


async def set_states(executor: Executor, ids: Sequence[JobId], state: str) -> None:
    """Let jobs run, or end and be counted as their workers would."""
    async with executor.begin() as tx:
        await tx.fetch(qualified(SET_STATE, executor), [list(ids), state])
        if state != "running":
            end = TaskState.COMPLETED if state == "completed" else TaskState.FAILED
            await count_ended(tx, dict.fromkeys(ids, end))


async def put_shop_flows(executor: Executor) -> None:
    """Insert the flows of the shop. Their ids are 1 to 3."""
    for id, name in enumerate(("import feed 7", "import feed 8", "import feed 9"), 1):
        _, ids = await put_flow(executor, shop_import(name, 12 if id < 3 else 40)[0])
        await executor.fetch(qualified(AGED, executor), [timedelta(hours=4 - id), id])
        await set_states(executor, ids[:1], "completed")
        if id == 3:
            await set_states(executor, ids[1:32], "completed")
            await set_states(executor, ids[32:35], "running")
            continue
        await set_states(executor, ids[2:13], "completed")
        await set_states(executor, ids[1:2], "completed" if id == 1 else "discarded")
        for number in (13, 14, 15, 16):
            await set_released(executor, ids[number])


async def set_released(executor: Executor, id: JobId) -> None:
    """Let a job complete if its task is released."""
    sql = "SELECT state FROM /* schema */millhand_flow_task WHERE job_id = $1"
    [row] = await executor.fetch(qualified(sql, executor), [id])
    if row["state"] == "released":
        await set_states(executor, [id], "completed")


async def put_flows_of_jobs(executor: Executor, name: str = "flow") -> None:
    """Let each job that is there be the only task of a flow with the job's id."""
    await executor.fetch(qualified(OF_JOBS, executor), [name])
    await executor.fetch(qualified(TASKS_OF_JOBS, executor))
