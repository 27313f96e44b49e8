"""Claims about the layers of a flow's graph."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from millhand.core.job import JobId
from millhand.flows.flow import When
from millhand.flows.report import Line, graph_lines
from millhand.flows.report_store import TaskGroup


def task(
    id: int,
    after: int | None = None,
    joins: Sequence[int] = (),
    *,
    num: int = 1,
    when: When = "completed",
    is_added: bool = False,
    has_added: bool = False,
) -> TaskGroup:
    """A group of `num` tasks named after their ids, which wait for the join `after` and are part of `joins`."""
    return TaskGroup(
        first_job_id=JobId(id),
        last_job_id=JobId(id + num - 1),
        first_name=f"t{id}",
        last_name=f"t{id + num - 1}",
        kind="act",
        after_join_id=after,
        when=None if after is None else when,
        join_ids=tuple(joins),
        is_added=is_added,
        has_added=has_added,
        states={"waiting": num},
        attempt=0,
        waited_seconds=None,
        ran_seconds=None,
    )


def drawn(lines: Sequence[Line]) -> list[tuple[int, str, list[str], int]]:
    return [(line.layer, line.name, list(line.after.names), line.after.num_tasks) for line in lines]


def test_a_task_is_below_the_last_of_those_that_it_waits_for() -> None:
    """A task that waits for tasks of several layers is in the layer after the last of them."""
    lines = graph_lines([task(1, joins=[1, 2]), task(2, after=1, joins=[2]), task(3), task(4, after=2)])

    assert drawn(lines) == [
        (1, "t1", [], 0),
        (1, "t3", [], 0),
        (2, "t2", ["t1"], 1),
        (3, "t4", ["t1", "t2"], 2),
    ]


def test_groups_are_named_and_counted_as_a_whole() -> None:
    """A group has the names of its first and last task, and what waits for it counts all of them."""
    lines = graph_lines([task(1, joins=[1]), task(2, after=1, joins=[2], num=1_000), task(1_002, after=2)])

    assert drawn(lines) == [
        (1, "t1", [], 0),
        (2, "t2 … t1001", ["t1"], 1),
        (3, "t1002", ["t2 … t1001"], 1_000),
    ]


def test_only_the_first_names_of_many_are_given() -> None:
    """After three lines the others are only counted."""
    lines = graph_lines([*(task(id, joins=[1]) for id in range(1, 6)), task(6, after=1)])

    assert (drawn(lines)[-1], lines[-1].after.num_lines) == ((2, "t6", ["t1", "t2", "t3"], 5), 5)


def test_added_tasks_are_below_the_one_that_added_them() -> None:
    """They are part of the same joins, and what waits for the adding task is below them, although its id is lower."""
    lines = graph_lines(
        [
            task(1, joins=[1]),
            task(2, after=1, joins=[2], has_added=True),
            task(3, after=2),
            task(4, joins=[2], num=5, is_added=True),
        ]
    )

    assert drawn(lines) == [
        (1, "t1", [], 0),
        (2, "t2", ["t1"], 1),
        (3, "t4 … t8", [], 0),
        (4, "t3", ["t2", "t4 … t8"], 6),
    ]


@pytest.mark.slow
def test_a_chain_of_ten_thousand_has_as_many_layers() -> None:
    """Deep graphs need no recursion."""
    lines = graph_lines([task(1, joins=[1]), *(task(id, id - 1, [id]) for id in range(2, 10_001))])

    assert (lines[-1].layer, lines[-1].name) == (10_000, "t10000")


def test_a_task_that_waits_for_an_empty_group_is_in_the_first_layer() -> None:
    """A join without tasks has no layer."""
    assert drawn(graph_lines([task(1, after=7)])) == [(1, "t1", [], 0)]
