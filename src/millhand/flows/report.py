"""
The graph of a flow in layers, for people: `millhand flow show` prints it.

Rule 1: a task is in the layer after the last one of those that it waits for. So each arrow leads downward.
Rule 2: a task that a running job added is in the layer after the job. Both are part of the same joins.
Rule 3: many equal tasks are one line.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from millhand.db.driver.protocol import Executor
from millhand.flows.flow import FlowRow
from millhand.flows.report_store import FailedTask, TaskGroup, flow_task_get_failed, flow_task_get_groups
from millhand.flows.store import flow_get

# Up to so many equal tasks have a line each.
NUM_LISTED = 10
NUM_FAILED_LISTED = 10
NUM_AFTER_NAMED = 3


class Awaited(msgspec.Struct, frozen=True, kw_only=True):
    """
    The tasks that a line waits for.

    Attributes:
        names: The names of their first lines.
        num_lines: How many lines they have.
        num_tasks: How many tasks they are.
    """

    names: Sequence[str]
    num_lines: int
    num_tasks: int


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """
    One line of a graph: a task, or a group of them.

    Attributes:
        layer: Its layer, from 1.
        name: The name of the task, or the first and the last name.
    """

    layer: int
    name: str
    group: TaskGroup
    after: Awaited


class FlowReport(msgspec.Struct, frozen=True):
    """A flow, the lines of its graph from top to bottom, and the first tasks that failed."""

    flow: FlowRow
    lines: Sequence[Line]
    failed: Sequence[FailedTask]


async def load_flow_report(executor: Executor, id: int, *, num_listed: int = NUM_LISTED) -> FlowReport:
    """
    Return the report of a flow. Up to `num_listed` equal tasks have a line each.

    Concurrency: the statements see different instants, so the numbers of a running flow may differ a little.
    Raises: NotFound.
    """
    flow = await executor.run(flow_get(id))
    groups = await executor.run(flow_task_get_groups(id, num_listed=num_listed))
    failed = await executor.run(flow_task_get_failed(id, limit=NUM_FAILED_LISTED)) if flow.num_failed else []
    return FlowReport(flow, graph_lines(groups), failed)


def graph_lines(groups: Sequence[TaskGroup]) -> list[Line]:
    """Return the lines of a graph: by layers, and in each by the ids of the jobs."""
    members: dict[int | None, list[TaskGroup]] = defaultdict(list)
    for group in groups:
        for join_id in group.join_ids:
            members[join_id].append(group)
    layers = _layers(groups)
    after = {join_id: _after(members[join_id]) for join_id in {group.after_join_id for group in groups}}
    lines = [
        Line(
            layer=layers[group.first_job_id],
            name=name_of(group),
            group=group,
            after=after[group.after_join_id],
        )
        for group in groups
    ]
    return sorted(lines, key=lambda line: (line.layer, line.group.first_job_id))


def name_of(group: TaskGroup) -> str:
    """Return the name of a task, or the first and the last one of a group. A task without a job has its id."""
    first = group.first_name or str(group.first_job_id)
    if group.num_tasks == 1:
        return first
    return f"{first} … {group.last_name or group.last_job_id}"


def _after(groups: Sequence[TaskGroup]) -> Awaited:
    return Awaited(
        names=[name_of(group) for group in groups[:NUM_AFTER_NAMED]],
        num_lines=len(groups),
        num_tasks=sum(group.num_tasks for group in groups),
    )


class _Layers:
    """The layer of each group, by its first job."""

    def __init__(self) -> None:
        self.by_job_id: dict[int, int] = {}
        self._of_join: dict[int, int] = defaultdict(int)  # the last layer of its members

    def after(self, join_id: int | None) -> int:
        return 1 if join_id is None else self._of_join[join_id] + 1

    def place(self, group: TaskGroup, layer: int) -> None:
        self.by_job_id[group.first_job_id] = layer
        for join_id in group.join_ids:
            self._of_join[join_id] = max(self._of_join[join_id], layer)


def _layers(groups: Sequence[TaskGroup]) -> Mapping[int, int]:
    """
    Return the layer of each group, by its first job.

    A task waits only for tasks with lower ids, and for those that they added. So one pass over the ids is enough.
    """
    layers = _Layers()
    added: dict[tuple[int, ...], list[TaskGroup]] = defaultdict(list)
    for group in groups:
        if group.is_added:
            added[group.join_ids].append(group)
    for group in groups:
        if not group.is_added:
            layer = layers.after(group.after_join_id)
            layers.place(group, layer)
            for one in added.pop(group.join_ids, ()) if group.has_added else ():
                layers.place(one, layer + 1)
    for one in itertools.chain.from_iterable(added.values()):  # the task that added it is gone
        layers.place(one, 1)
    return layers.by_job_id
