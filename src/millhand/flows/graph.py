"""
The graph of a flow as geometry: groups of tasks in, boxes and lines of an SVG out. `flow.html` draws them.

Each layer is a column, and what waits is right of what it waits for. Lines of a join with several tasks on both sides meet
in one point, so their number is that of the tasks and not of the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from millhand.core.job import JobId
from millhand.flows.flow import When
from millhand.flows.page_store import TaskCount

BOXES_MAX = 150
BOX_WIDTH, BOX_HEIGHT = 190, 46
GAP, ROW = 70, 62
MARGIN = 8
BAR_WIDTH = BOX_WIDTH - 16
LABEL_LENGTH, TEXT_LENGTH = 24, 25
# In the order of a bar, and of its words.
_ORDER = {
    state: number
    for number, state in enumerate(("completed", "failed", "skipped", "running", "retryable", "available"))
}
_TONES = {
    "failed": "discarded",
    "skipped": "cancelled",
    "waiting": "line",
    "pending": "line",
    "released": "available",
}

Place = tuple[int | None, When | None, tuple[int, ...], str | None]


class Piece(msgspec.Struct, frozen=True):
    """A part of the bar of a box: where it begins, how wide it is, and its CSS class."""

    x: float
    width: float
    tone: str


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """
    Tasks that wait for the same tasks and that the same tasks wait for.

    Attributes:
        label: The name of one task, or of tasks that were added together, or the kind of several.
        states: How many tasks are in each state.
        when: How the tasks must end that they wait for.
        first_job_id: The least id of their jobs.
    """

    label: str
    num_tasks: int
    states: Mapping[str, int]
    when: When | None
    first_job_id: JobId
    x: int = 0
    y: int = 0

    @property
    def short_label(self) -> str:
        """The label, and the number of several tasks, as far as they fit into the box."""
        number = f" ({self.num_tasks:,})" if self.num_tasks > 1 else ""
        return _cut(self.label, LABEL_LENGTH - len(number)) + number

    @property
    def short_text(self) -> str:
        """The text as far as it fits into the box."""
        return _cut(self.text, TEXT_LENGTH)

    @property
    def text(self) -> str:
        """The states in words, and when the tasks run if that is not the default."""
        states = [f"{num:,} {state}" if self.num_tasks > 1 else state for state, num in self.states.items()]
        return ", ".join(states) + (f"; if {self.when}" if self.when in ("ended", "failed") else "")

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The bar: each state with its share of the tasks."""
        pieces, x = [], 0.0
        for state, num in self.states.items():
            width = round(BAR_WIDTH * num / self.num_tasks, 2)
            pieces.append(Piece(round(x, 2), width, _TONES.get(state, state)))
            x += width
        return tuple(pieces)


class FlowGraph(msgspec.Struct, frozen=True, kw_only=True):
    """The boxes and lines of a flow. `text` says in words what it shows."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    lines: tuple[str, ...]
    text: str


def graph_of(counts: Sequence[TaskCount]) -> FlowGraph | None:
    """Return the graph of groups by their first jobs; None if it would have more than 150 boxes, or none."""
    groups: dict[Place, list[TaskCount]] = {}
    for one in counts:
        groups.setdefault((one.after_join_id, one.when, one.join_ids, one.kind), []).append(one)
    if not 0 < len(groups) <= BOXES_MAX:
        return None
    members: dict[int, list[Place]] = {}
    for place in groups:
        for join in place[2]:
            members.setdefault(join, []).append(place)
    columns = _columns(groups, members)
    tallest = max(map(len, columns))
    boxes = {
        place: _box(groups[place], x=MARGIN + number * (BOX_WIDTH + GAP), y=_top(row, len(column), tallest))
        for number, column in enumerate(columns)
        for row, place in enumerate(column)
    }
    num_tasks = sum(box.num_tasks for box in boxes.values())
    return FlowGraph(
        width=2 * MARGIN + len(columns) * (BOX_WIDTH + GAP) - GAP,
        height=2 * MARGIN + tallest * ROW - (ROW - BOX_HEIGHT),
        boxes=tuple(boxes.values()),
        lines=tuple(_lines(boxes, members)),
        text=f"Graph of {num_tasks:,} tasks in {len(columns)} layers",
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _columns(
    groups: Mapping[Place, Sequence[TaskCount]], members: Mapping[int, Sequence[Place]]
) -> list[list[Place]]:
    """Return the layers, each in the order of the rows of what it waits for."""
    depths: dict[Place, int] = {}
    while len(depths) < len(groups):
        ready = [
            place
            for place in groups
            if place not in depths and all(parent in depths for parent in _parents(place, members))
        ]
        if not ready:  # rows that no flow of ours has
            ready = [place for place in groups if place not in depths]
        for place in ready:
            known = [depths[parent] for parent in _parents(place, members) if parent in depths]
            depths[place] = max(known, default=-1) + 1
    columns: list[list[Place]] = [[] for _ in range(max(depths.values()) + 1)]
    for place in groups:
        columns[depths[place]].append(place)
    rows: dict[Place, float] = {}
    for column in columns:
        column.sort(key=lambda place: _mean([rows[one] for one in _parents(place, members) if one in rows]))
        rows.update((place, row - len(column) / 2) for row, place in enumerate(column))
    return columns


def _parents(place: Place, members: Mapping[int, Sequence[Place]]) -> Sequence[Place]:
    return () if place[0] is None else members.get(place[0], ())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _top(row: int, num_rows: int, tallest: int) -> int:
    return MARGIN + row * ROW + (tallest - num_rows) * ROW // 2


def _box(counts: Sequence[TaskCount], *, x: int, y: int) -> Box:
    first = min(counts, key=lambda one: one.first_job_id)
    states: dict[str, int] = {}
    for one in counts:
        states[one.state] = states.get(one.state, 0) + one.num_tasks
    num_tasks = sum(states.values())
    name = first.name or ""
    label = name if num_tasks == 1 else name.removesuffix(".1") if name.endswith(".1") else first.kind
    return Box(
        label=label or f"job {first.first_job_id}",
        num_tasks=num_tasks,
        states=dict(sorted(states.items(), key=lambda one: _ORDER.get(one[0], len(_ORDER)))),
        when=first.when,
        first_job_id=first.first_job_id,
        x=x,
        y=y,
    )


def _lines(boxes: Mapping[Place, Box], members: Mapping[int, Sequence[Place]]) -> list[str]:
    """Return the paths of lines from boxes to those that wait for them."""
    waiting: dict[int, list[Box]] = {}
    for place, box in boxes.items():
        if place[0] is not None:
            waiting.setdefault(place[0], []).append(box)
    lines = []
    for join, after in waiting.items():
        before = [boxes[place] for place in members.get(join, ())]
        ends = [(box.x, box.y + BOX_HEIGHT // 2) for box in after]
        starts = [(box.x + BOX_WIDTH, box.y + BOX_HEIGHT // 2) for box in before]
        if len(starts) > 1 and len(ends) > 1:
            x = max(max(x for x, _ in starts) + GAP // 2, min(x for x, _ in ends) - GAP // 2)
            point = (x, sum(y for _, y in starts + ends) // len(starts + ends))
            lines += [_line(start, point) for start in starts]
            starts = [point]
        lines += [_line(start, end) for start in starts for end in ends]
    return lines


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x1, y1), (x2, y2) = start, end
    middle = (x1 + x2) // 2
    return f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"
