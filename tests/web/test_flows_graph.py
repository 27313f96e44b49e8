"""Claims about the graph of a flow as it is drawn."""

from __future__ import annotations

import pytest
from template_samples import task_count

from millhand.flows.graph import BOX_WIDTH, BOXES_MAX, GAP, Box, FlowGraph, graph_of


def graph(*counts: object) -> FlowGraph:
    found = graph_of(counts)  # type: ignore[arg-type]
    assert found is not None
    return found


def column(box: Box) -> int:
    return box.x // (BOX_WIDTH + GAP)


def test_a_task_is_right_of_all_that_it_waits_for() -> None:
    """A task that was added while the flow ran has a greater id than what waits for it, and is still left of that."""
    drawn = graph(
        task_count(1, None, 5),
        task_count(2, 5, 6),
        task_count(3, 6, 7),
        task_count(4, 7),
        task_count(9, None, 7, name="added"),
    )

    assert {box.label: column(box) for box in drawn.boxes} == {
        "task 1": 0, "added": 0, "task 2": 1, "task 3": 2, "task 4": 3,
    }  # fmt: skip
    assert drawn.text == "Graph of 5 tasks in 4 layers"
    assert len(drawn.lines) == 4


def test_tasks_with_the_same_neighbours_are_one_box() -> None:
    """A thousand tasks are a box with their states, and the bar has the share of each; another kind is another box."""
    drawn = graph(
        task_count(1, None, 5, num=1, name="part.1", state="running"),
        task_count(2, None, 5, num=899, name="part.2"),
        task_count(7, None, 5, num=100, name="part.7", state="failed"),
        task_count(2_000, None, 5, num=2, kind="check", state="waiting"),
        task_count(2_002, 5, when="failed", state="skipped"),
    )
    part, check, last = drawn.boxes

    assert (part.short_label, part.text) == ("part (1,000)", "899 completed, 100 failed, 1 running")
    assert [(piece.tone, piece.x, piece.width) for piece in part.pieces] == [
        ("completed", 0.0, 156.43), ("discarded", 156.43, 17.4), ("running", 173.83, 0.17),
    ]  # fmt: skip
    assert part.short_text == "899 completed, 100 faile…"
    assert (check.label, last.text) == ("check", "skipped; if failed")


def test_lines_of_a_join_meet_in_a_point() -> None:
    """Twenty boxes before twenty others are forty lines, and not four hundred."""
    before = [task_count(id, None, 5, kind=f"a{id}") for id in range(20)]
    after = [task_count(id, 5, kind=f"b{id}") for id in range(20, 40)]

    assert len(graph(*before, *after).lines) == 40
    assert len(graph(*before, after[0]).lines) == 20


def test_rows_follow_what_they_wait_for() -> None:
    """Chains beside each other do not cross."""
    counts = [task_count(id, None, id, kind=f"a{id}") for id in range(1, 9)]
    counts += [task_count(100 - id, id, kind=f"b{id}") for id in range(8, 0, -1)]
    boxes = graph(*counts).boxes
    tops = {column(box): [] for box in boxes}
    for box in boxes:
        tops[column(box)].append((box.y, box.label))

    assert [label for _, label in sorted(tops[1])] == [f"task {100 - id}" for id in range(1, 9)]


@pytest.mark.parametrize(
    ("num", "is_drawn"), [(0, False), (1, True), (BOXES_MAX, True), (BOXES_MAX + 1, False)]
)
def test_a_graph_with_too_many_boxes_is_not_drawn(num: int, is_drawn: bool) -> None:
    """A page stays small: above 150 boxes there is no graph, and none for a flow whose tasks are gone."""
    assert (graph_of([task_count(id, None, kind=f"k{id}") for id in range(num)]) is not None) is is_drawn


def test_rows_that_wait_for_each_other_are_drawn() -> None:
    """No flow has a circle; if the tables have one, the page still ends."""
    drawn = graph(task_count(1, 6, 5), task_count(2, 5, 6))

    assert len(drawn.boxes) == 2
