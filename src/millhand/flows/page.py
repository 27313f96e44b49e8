"""Flows: the list of them, and one with its graph and its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

import msgspec

from millhand.core.errors import NotFound, OperationTimeout
from millhand.flows.flow import FLOW_NAME_KEY, TASK_KEY, FlowRow, FlowState, TaskState
from millhand.flows.graph import FlowGraph, graph_of
from millhand.flows.page_store import TaskCount, TaskLine, flow_task_count_groups, flow_task_list_lines
from millhand.flows.store import flow_get, flow_get_shape, flow_list
from millhand.shells.web.form import ID_MAX, whole_number
from millhand.shells.web.hiding import MARK, Hiding
from millhand.shells.web.page import PageRequest

PAGE_SIZE = 100
# The kinds and states of the jobs of a flow with more tasks are not read for its graph.
JOBS_MAX = 5_000
# Of a larger flow, the graph has so many of the first tasks, and of the last.
COUNTED_MAX = 50_000
COUNTS_MAX = 1_000
GRAPH_SECONDS = 1.0


class FlowLine(msgspec.Struct, frozen=True, kw_only=True):
    """A flow. `num_ended` is how many of its tasks have ended, also those that failed or were skipped."""

    id: int
    name: str
    state: FlowState
    num_tasks: int
    num_ended: int
    num_failed: int
    num_skipped: int
    created_at: datetime
    cancelled_at: datetime | None
    ended_at: datetime | None


class Flows(msgspec.Struct, frozen=True, kw_only=True):
    """
    Up to 100 flows, newest first; with `state`, those in it.

    A flow has jobs of several queues and kinds, so a user with limits sees none: `is_limited`. `before` is the cursor of
    the next page, None after the last one. Without `is_there`, run `millhand migrate up`, or let the page's role read the
    tables.
    """

    flows: tuple[FlowLine, ...] = ()
    state: FlowState | None = None
    before: int | None = None
    is_limited: bool = False
    is_there: bool = True


class FlowPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    One flow, its graph, and up to 100 of its tasks by the ids of their jobs; with `state`, those in it.

    `graph` is None for a flow with too many groups of tasks to draw, or if the database took too long to count them. It has
    `num_drawn` tasks. `after` is the cursor of the next page of tasks, None after the last one.
    """

    flow: FlowLine
    tasks: tuple[TaskLine, ...]
    graph: FlowGraph | None
    num_drawn: int
    state: TaskState | None = None
    after: int | None = None


async def load(request: PageRequest) -> Flows:
    """Load a page of flows. Raises: ValueError for an unknown state or an invalid cursor."""
    text = request.query.get("state") or None
    state = None if text is None else FlowState(text)
    before = _cursor(request, "before")
    if request.user.is_limited:
        return Flows(state=state, is_limited=True)
    if not await request.database.has(flow_get_shape):
        return Flows(state=state, is_there=False)
    rows = await request.database.run(flow_list(state=state, before_id=before, limit=PAGE_SIZE))
    return Flows(
        flows=tuple(flow_line(row, request.hide) for row in rows),
        state=state,
        before=rows[-1].id if len(rows) == PAGE_SIZE else None,
    )


async def load_flow(request: PageRequest) -> FlowPage:
    """Load one flow. Raises: NotFound; ValueError for an unknown state or an invalid cursor."""
    id, run = request.path["id"], request.database.run
    text = request.query.get("state") or None
    state = None if text is None else TaskState(text)
    after = _cursor(request, "after")
    if request.user.is_limited or not await request.database.has(flow_get_shape):
        raise NotFound("flow", id)
    row = await run(flow_get(id))
    counts, tasks = await asyncio.gather(
        _counts(row, request),
        run(flow_task_list_lines(id, state=state, after_job_id=after or 0, limit=PAGE_SIZE)),
    )
    shown = [
        msgspec.structs.replace(one, name=shown_name(TASK_KEY, one.name, request.hide)) for one in counts
    ]
    return FlowPage(
        flow=flow_line(row, request.hide),
        tasks=tuple(_hidden(tasks, request.hide)),
        graph=graph_of(shown) if len(counts) < COUNTS_MAX else None,
        num_drawn=sum(one.num_tasks for one in counts),
        state=state,
        after=tasks[-1].job_id if len(tasks) == PAGE_SIZE else None,
    )


async def _counts(row: FlowRow, request: PageRequest) -> Sequence[TaskCount]:
    """Return the groups of tasks; none if that takes too long, so that the rest of the page is there."""
    query = flow_task_count_groups(
        row.id,
        has_jobs=row.num_tasks <= JOBS_MAX,
        num_first=COUNTED_MAX,
        num_last=COUNTED_MAX,
        limit=COUNTS_MAX,
    )
    try:
        return await request.database.run(query.within(GRAPH_SECONDS))
    except OperationTimeout:
        return ()


def flow_line(row: FlowRow, hide: Hiding) -> FlowLine:
    """Return the line of a flow, without its name if a rule hides that."""
    return FlowLine(
        id=row.id,
        name=shown_name(FLOW_NAME_KEY, row.name, hide) or "",
        state=row.state,
        num_tasks=row.num_tasks,
        num_ended=row.num_tasks - row.num_open,
        num_failed=row.num_failed,
        num_skipped=row.num_skipped,
        created_at=row.created_at,
        cancelled_at=row.cancelled_at,
        ended_at=row.ended_at,
    )


def shown_name(key: str, name: str | None, hide: Hiding) -> str | None:
    """Return the name of a flow or a task, which the metadata of jobs has too, or a mark if a rule hides it there."""
    if name is None or not hide.metadata:
        return name
    text = msgspec.json.encode({key: name}).decode()
    return name if hide.json("metadata", text) == text else MARK


def _hidden(tasks: Sequence[TaskLine], hide: Hiding) -> Sequence[TaskLine]:
    if not hide.metadata:
        return tasks
    return [msgspec.structs.replace(one, name=shown_name(TASK_KEY, one.name, hide)) for one in tasks]


def _cursor(request: PageRequest, name: str) -> int | None:
    """Return the id that a parameter of the URL has. Raises: ValueError."""
    text = request.query.get(name)
    return whole_number(name, text, maximum=ID_MAX) if text else None
