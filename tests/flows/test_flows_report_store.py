"""Claims about the statements that report on flows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand.core.config import Config
from millhand.core.job import JobId
from millhand.db.driver.protocol import Executor
from millhand.engine.inserter import Inserter
from millhand.flows.flow import Flow
from millhand.flows.inserter import insert_flow
from millhand.flows.report_store import FailedTask, flow_task_get_failed, flow_task_get_groups
from millhand.flows.store import NewTask, flow_add_tasks, flow_task_insert_many


@dataclass(frozen=True)
class One:
    kind: ClassVar[str] = "one"


@dataclass(frozen=True)
class Other:
    kind: ClassVar[str] = "other"


async def test_equal_tasks_of_one_kind_are_a_group_if_there_are_many(tx: Executor) -> None:
    """Tasks with another kind, other parents or other children are apart; few are listed one by one."""
    flow = Flow("groups")
    first = flow.add_many([One()] * 4)
    others = [flow.add(Other()) for _ in range(3)]
    flow.add_many([One()] * 5, after=[first, *others])
    flow.add_many([One()] * 5, after=[first, *others], when="ended")
    row = await insert_flow(flow, Inserter(tx, Config()), tx, tx)

    folded = await tx.run(flow_task_get_groups(row.id, num_listed=3))
    listed = await tx.run(flow_task_get_groups(row.id, num_listed=4))

    assert [(group.first_name, group.num_tasks, group.kind, group.when) for group in folded] == [
        ("tasks.1", 4, "one", None),
        ("other", 1, "other", None),
        ("other_2", 1, "other", None),
        ("other_3", 1, "other", None),
        ("tasks_2.1", 5, "one", "completed"),
        ("tasks_3.1", 5, "one", "ended"),
    ]
    assert (folded[0].last_name, folded[0].states) == ("tasks.4", {"available": 4})
    assert folded[4].after_join_id in folded[0].join_ids
    assert [group.num_tasks for group in listed] == [1] * 7 + [5, 5]


async def test_groups_have_states_and_the_longest_times(tx: Executor) -> None:
    """A released task has the state of its job; a job that ended and is not counted yet has ended."""
    flow = Flow("states")
    flow.add_many([One()] * 6)
    row = await insert_flow(flow, Inserter(tx, Config()), tx, tx)
    [group] = await tx.run(flow_task_get_groups(row.id, num_listed=1))
    first = group.first_job_id
    for place, state, seconds in (
        (0, "completed", 3),
        (1, "discarded", 8),
        (2, "running", None),
        (3, "retryable", None),
    ):
        await tx.fetch(
            "UPDATE river_job SET state = $1::river_job_state, attempt = $2, attempted_at = scheduled_at + $3::interval, "
            "finalized_at = scheduled_at + $3::interval + $4::interval WHERE id = $5",
            [
                state, place + 1, timedelta(seconds=place), seconds and timedelta(seconds=seconds), first + place,
            ],
        )  # fmt: skip
    await tx.fetch("DELETE FROM river_job WHERE id = $1", [first + 5])

    groups = await tx.run(flow_task_get_groups(row.id, num_listed=1))

    # A deleted job has no kind, so its task is apart.
    assert [group.states for group in groups] == [
        {"available": 1, "retryable": 1, "running": 1, "completed": 1, "failed": 1},
        {"failed": 1},
    ]
    assert (groups[0].attempt, groups[0].ran_seconds) == (4, 8.0)
    assert groups[0].waited_seconds is not None
    assert (groups[1].first_name, groups[1].kind, groups[1].first_job_id) == (None, None, first + 5)


async def test_added_tasks_are_apart_from_those_that_the_flow_began_with(tx: Executor) -> None:
    """The group of the adding task and that of the added ones have marks."""
    flow = Flow("added")
    flow.add(One(), name="adder")
    row = await insert_flow(flow, Inserter(tx, Config()), tx, tx)
    [adder] = await tx.run(flow_task_get_groups(row.id, num_listed=1))
    ids = [result.job.id for result in await Inserter(tx, Config()).insert_many([(One(), None)] * 2, tx)]
    await tx.run(flow_task_insert_many(row.id, [NewTask(id, None, None, ()) for id in ids]))
    await tx.run(flow_add_tasks(row.id, adder.first_job_id, join_ids=(), added_job_ids=ids))

    groups = await tx.run(flow_task_get_groups(row.id, num_listed=1))

    assert [(group.num_tasks, group.is_added, group.has_added) for group in groups] == [
        (1, False, True),
        (2, True, False),
    ]


async def test_failed_tasks_are_those_that_failed_themselves(tx: Executor) -> None:
    """A task that was cancelled because another one failed is left out, and so are more than the limit."""
    flow = Flow("failed")
    first = flow.add(One(), name="first")
    flow.add(One(), after=first, name="below")
    flow.add(One(), name="alone")
    row = await insert_flow(flow, Inserter(tx, Config()), tx, tx)
    groups = await tx.run(flow_task_get_groups(row.id, num_listed=1))
    ids = {group.first_name: group.first_job_id for group in groups}
    await tx.fetch("UPDATE millhand_flow_task SET state = 'failed'")
    await tx.fetch("UPDATE millhand_flow_join SET num_failed = 1")
    error = """ARRAY['{"at": "2026-01-01T00:00:00Z", "attempt": 2, "error": "no", "trace": ""}'::jsonb]"""
    await tx.fetch(
        f"UPDATE river_job SET state = 'discarded', finalized_at = now(), attempt = 2, errors = {error} WHERE id = $1",
        [ids["first"]],
    )
    await tx.fetch("DELETE FROM river_job WHERE id = $1", [ids["alone"]])

    failed = await tx.run(flow_task_get_failed(row.id, limit=10))
    one = await tx.run(flow_task_get_failed(row.id, limit=1))

    assert failed == [
        FailedTask(JobId(ids["first"]), "first", "one", "discarded", 2, "no"),
        FailedTask(JobId(ids["alone"]), None, None, None, None, None),
    ]
    assert one == failed[:1]
