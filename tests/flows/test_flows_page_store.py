"""Claims about the statements for what the web page shows of flows."""

from __future__ import annotations

from factory import insert_job, qualified
from millhand.core.job import JobId
from millhand.db.driver.protocol import Executor
from millhand.flows.flow import TaskState
from millhand.flows.page_store import FlowOfJob, flow_get_of_job, flow_task_count_groups, flow_task_list_lines
from millhand.flows.store import NewTask, flow_draw_ids, flow_insert, flow_task_insert_many


async def put(tx: Executor) -> tuple[int, list[JobId]]:
    """Insert a flow of three jobs and one that waits for them, and return its id and theirs."""
    jobs = [
        await insert_job(tx, kind=kind, metadata=f'{{"task": "{kind}"}}') for kind in ("a", "b", "b", "sum")
    ]
    ids = await tx.run(flow_draw_ids(1))
    [join] = ids.join_ids
    tasks = [NewTask(job.id, None, None, [join]) for job in jobs[:3]]
    await tx.run(flow_task_insert_many(ids.flow_id, [*tasks, NewTask(jobs[3].id, join, "ended", [])]))
    await tx.run(flow_insert(ids.flow_id, "report", 4, {join: 3}))
    return ids.flow_id, [job.id for job in jobs]


async def test_job_has_its_flow(tx: Executor) -> None:
    """A task has its flow and how many tasks it waits for; another job has none."""
    flow_id, ids = await put(tx)
    other = await insert_job(tx)

    assert await tx.run(flow_get_of_job(ids[3])) == FlowOfJob(
        id=flow_id, name="report", state=TaskState.WAITING, when="ended", num_before=3
    )
    assert await tx.run(flow_get_of_job(other.id)) is None


async def test_tasks_are_listed_by_id_and_state(tx: Executor) -> None:
    """The list begins after an id, and a state selects; a task whose job is gone is in it."""
    flow_id, ids = await put(tx)
    await tx.fetch(qualified("DELETE FROM /* schema */river_job WHERE id = $1", tx), [ids[1]])

    lines = await tx.run(flow_task_list_lines(flow_id, after_job_id=ids[0], limit=2))
    waiting = await tx.run(flow_task_list_lines(flow_id, state=TaskState.WAITING, limit=9))

    assert [(one.job_id, one.name, one.kind) for one in lines] == [(ids[1], None, None), (ids[2], "b", "b")]
    assert [one.job_id for one in waiting] == [ids[3]]


async def test_groups_have_kinds_and_states_of_jobs(tx: Executor) -> None:
    """With the jobs, kinds and states are apart; without, tasks with the same neighbours are one group."""
    flow_id, ids = await put(tx)

    fine = await tx.run(flow_task_count_groups(flow_id, has_jobs=True, num_first=9, num_last=9, limit=9))
    coarse = await tx.run(flow_task_count_groups(flow_id, has_jobs=False, num_first=9, num_last=9, limit=9))
    ends = await tx.run(flow_task_count_groups(flow_id, has_jobs=True, num_first=1, num_last=1, limit=9))
    first = await tx.run(flow_task_count_groups(flow_id, has_jobs=True, num_first=9, num_last=9, limit=1))

    assert [(one.kind, one.state, one.num_tasks, one.first_job_id) for one in fine] == [
        ("a", "available", 1, ids[0]),
        ("b", "available", 2, ids[1]),
        ("sum", "waiting", 1, ids[3]),
    ]
    assert [(one.kind, one.state, one.num_tasks) for one in coarse] == [
        ("a", "released", 3),
        ("sum", "waiting", 1),
    ]
    assert [(one.kind, one.num_tasks) for one in ends] == [("a", 1), ("sum", 1)]
    assert [one.kind for one in first] == ["a"]


async def test_large_metadata_is_not_read_for_a_name(tx: Executor) -> None:
    """A task with a large output has no name in the list, so a page of such tasks is quick."""
    flow_id, ids = await put(tx)
    large = """
        UPDATE /* schema */river_job
        SET metadata = metadata || jsonb_build_object('output', ARRAY(SELECT random() FROM generate_series(1, 30000)))
        WHERE id = $1
    """
    await tx.fetch(qualified(large, tx), [ids[0]])

    lines = await tx.run(flow_task_list_lines(flow_id, limit=2))

    assert [one.name for one in lines] == [None, "b"]
