"""Claims about the statements of flows."""

from __future__ import annotations

from millhand.core.job import JobId
from millhand.db.driver.protocol import Executor
from millhand.flows.flow import TaskState
from millhand.flows.store import (
    NewTask,
    flow_count_ended,
    flow_draw_ids,
    flow_get,
    flow_insert,
    flow_task_insert_many,
)


async def test_a_task_is_counted_once(tx: Executor) -> None:
    """A second count of the same end changes neither the join nor the flow."""
    ids = await tx.run(flow_draw_ids(1))
    [join_id] = ids.join_ids
    tasks = [NewTask(JobId(number), None, None, [join_id]) for number in (1, 2)]
    await tx.run(flow_task_insert_many(ids.flow_id, tasks))
    await tx.run(flow_insert(ids.flow_id, "twice", 2, {join_id: 2}))

    due = [await tx.run(flow_count_ended({JobId(1): TaskState.FAILED})) for _ in range(2)]
    row = await tx.run(flow_get(ids.flow_id))

    assert due == [[join_id], []]
    assert (row.num_open, row.num_failed) == (1, 1)
