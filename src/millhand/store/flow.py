"""Statements for flows. The rules of locks are in `runtime/flow_resolver.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from millhand.errors import NotFound
from millhand.flow import FlowRow, TaskState, When
from millhand.job import JobId
from millhand.store.query import Query, Row, parse_none, seconds_for

NUM_FLOW_COLUMNS = len(FlowRow.__struct_fields__)
# A release of a million tasks takes as long as their insert.
RELEASE_SECONDS = 600.0


class DrawnIds(NamedTuple):
    """The ids of a flow that is to be inserted, and whether the schema has the tables of River Pro's workflows."""

    flow_id: int
    join_ids: Sequence[int]
    has_river_pro: bool


class NewTask(NamedTuple):
    """A task to insert; `after_join_id` and `when` are None if it waits for no other."""

    job_id: JobId
    after_join_id: int | None
    when: When | None
    join_ids: Sequence[int]


def flow_draw_ids(num_joins: int) -> Query[DrawnIds]:
    """Draw the id of a flow, and those of its joins."""
    return Query("flow_draw_ids", {"num_joins": num_joins}, lambda rows: DrawnIds(*rows[0]))


def flow_insert(id: int, name: str, num_tasks: int, nums_open: Mapping[int, int]) -> Query[FlowRow]:
    """Insert a flow, and its joins with the number of their tasks, and wake the leader."""
    params = {
        "id": id,
        "join_ids": list(nums_open),
        "name": name,
        "num_tasks": num_tasks,
        "nums_open": list(nums_open.values()),
    }
    return Query("flow_insert", params, lambda rows: _parse_flow(rows[0]))


def flow_task_insert_many(flow_id: int, tasks: Sequence[NewTask]) -> Query[None]:
    """Insert tasks. Their jobs were inserted in the same transaction."""
    columns: dict[str, list[Any]] = {
        "after_join_ids": [task.after_join_id for task in tasks],
        "task_whens": [task.when for task in tasks],
        "join_ids": ["{" + ",".join(map(str, task.join_ids)) + "}" for task in tasks],
    }
    params: dict[str, object] = {name: _shortened(values) for name, values in columns.items()}
    params |= {"flow_id": flow_id, "job_ids": [task.job_id for task in tasks]}
    return Query("flow_task_insert_many", params, parse_none, seconds_for(100 * len(tasks)))


def flow_lock_of_jobs(job_ids: Sequence[JobId]) -> Query[list[JobId]]:
    """Lock the flows of jobs, in the order of their ids, and return those jobs that are tasks, by id."""
    return Query("flow_lock_of_jobs", {"job_ids": list(job_ids)}, lambda rows: rows[0][0] or [])


def flow_lock(id: int) -> Query[FlowRow]:
    """Lock a flow until the end of the transaction, and return it. Raises: NotFound."""

    def parse(rows: Sequence[Row]) -> FlowRow:
        for row in rows:
            return _parse_flow(row)
        raise NotFound("flow", id)

    return Query("flow_lock", {"id": id}, parse)


def flow_count_ended(ends: Mapping[JobId, TaskState]) -> Query[list[int]]:
    """
    Count tasks that have ended, each once, and return the joins that may decide tasks by that.

    Concurrency: the flows are locked.
    """
    job_ids = sorted(ends)
    params = {"job_ids": job_ids, "ends": [ends[id].value for id in job_ids]}
    return Query("flow_count_ended", params, lambda rows: [row[0] for row in rows])


def flow_release(join_ids: Sequence[int]) -> Query[dict[JobId, TaskState]]:
    """
    Release the waiting tasks of joins, or cancel their jobs; return how the tasks of cancelled jobs end.

    Concurrency: the flows are locked. It waits for no job: one that is locked stays as it is.
    """
    return Query(
        "flow_release",
        {"join_ids": list(join_ids)},
        lambda rows: {id: TaskState(state) for id, state in rows},
        RELEASE_SECONDS,
    )


def _parse_flow(row: Row) -> FlowRow:
    return FlowRow(*row[:NUM_FLOW_COLUMNS])


def _shortened(values: list[Any]) -> list[Any]:
    """Return one value if all tasks have the same; the statement takes it for each."""
    return values[:1] if values.count(values[0]) == len(values) else values
