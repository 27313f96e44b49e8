"""Statements for flows. The rules of locks are in `flows/resolver.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from millhand.core.errors import NotFound
from millhand.core.job import JobId, JobState
from millhand.db.query import Query, Row, parse_count, parse_none
from millhand.engine.store.job_insert import seconds_for
from millhand.flows.flow import FlowRow, FlowState, RetryMode, TaskState, When

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


def flow_get_shape() -> Query[bool]:
    """Return whether the tables are there, and whether this role may read them."""
    return Query("flow_get_shape", {}, lambda rows: bool(rows[0][0]))


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


def flow_task_insert_many(
    flow_id: int, tasks: Sequence[NewTask], *, empty_join_ids: Sequence[int] = ()
) -> Query[None]:
    """
    Insert tasks. Their jobs were inserted in the same transaction.

    One that waits for a join of `empty_join_ids` is released, unless it waits for a failure.
    """
    columns: dict[str, list[Any]] = {
        "after_join_ids": [task.after_join_id for task in tasks],
        "task_whens": [task.when for task in tasks],
        "join_ids": ["{" + ",".join(map(str, task.join_ids)) + "}" for task in tasks],
    }
    # If all tasks have the same value, the statement takes one for each.
    params: dict[str, object] = {
        name: values[:1] if values.count(values[0]) == len(values) else values
        for name, values in columns.items()
    }
    params |= {
        "empty_join_ids": list(empty_join_ids),
        "flow_id": flow_id,
        "job_ids": [task.job_id for task in tasks],
    }
    return Query("flow_task_insert_many", params, parse_none, seconds_for(100 * len(tasks)))


def flow_lock(id: int) -> Query[FlowRow]:
    """Lock a flow until the end of the transaction, and return it. Raises: NotFound."""
    return Query("flow_lock", {"id": id}, lambda rows: _parse_one(id, rows))


def flow_lock_unlocked(id: int) -> Query[bool]:
    """Lock a flow until the end of the transaction, and return True; False if another has locked it, or it is gone."""
    return Query("flow_lock_unlocked", {"id": id}, bool)


def flow_lock_of_jobs(job_ids: Collection[JobId]) -> Query[list[int]]:
    """
    Lock the flows of jobs until the end of the transaction, and return their ids, in order.

    Concurrency: skips those that another transaction has locked.
    """
    return Query("flow_lock_of_jobs", {"job_ids": sorted(job_ids)}, lambda rows: [row[0] for row in rows])


def flow_task_get_ends(job_ids: Collection[JobId], flow_ids: Sequence[int]) -> Query[dict[JobId, TaskState]]:
    """Return how those tasks of flows end, among jobs, that are not counted and whose jobs have ended or were deleted."""
    params = {"flow_ids": list(flow_ids), "job_ids": sorted(job_ids)}
    return Query("flow_task_get_ends", params, _parse_job_ends)


def flow_count_ended(
    ends: Mapping[JobId, TaskState], *, limits_idle: bool = True, lock_seconds: float | None = None
) -> Query[Sequence[int]]:
    """
    Lock the flows of jobs, count those of their tasks that have ended, and return the joins that may decide tasks.

    A task is counted once. Jobs that are no tasks are left out. With `limits_idle`, a process that stands still loses the
    connection for the rest of the transaction.
    Concurrency: safe to race; flows are locked in the order of their ids. With `lock_seconds`, PostgreSQL raises if another
    transaction has one of the locks for longer.
    """
    job_ids = sorted(ends)
    params = {
        "failed_job_ids": [id for id in job_ids if ends[id] is TaskState.FAILED],
        "idle_timeout": "30000" if limits_idle else None,
        "job_ids": job_ids,
        "lock_timeout": None if lock_seconds is None else f"{lock_seconds * 1000:.0f}ms",
        "skipped_job_ids": [id for id in job_ids if ends[id] is TaskState.SKIPPED],
    }
    return Query("flow_count_ended", params, lambda rows: rows[0][0] or [])


def flow_release(join_ids: Sequence[int], *, now: datetime | None = None) -> Query[Mapping[JobId, TaskState]]:
    """
    Release the waiting tasks of joins, or cancel their jobs; return how the tasks of cancelled jobs end.

    Concurrency: the flows are locked. It waits for no job: one that is locked stays as it is.
    """
    return Query(
        "flow_release",
        {"join_ids": list(join_ids), "now": now},
        lambda rows: {id: TaskState.SKIPPED if is_skipped else TaskState.FAILED for id, is_skipped in rows},
        RELEASE_SECONDS,
    )


class Walk(NamedTuple):
    """
    A part of the tasks of flows that run.

    Attributes:
        num_walked: How many tasks were looked at.
        last: The flow and the job of the last one.
        ends: How tasks end that are not counted.
        due: The joins, by flow, that decide tasks which still wait.
    """

    num_walked: int
    last: tuple[int, JobId]
    ends: Mapping[JobId, TaskState]
    due: Mapping[int, Sequence[int]]


class ListedTask(NamedTuple):
    """A task without its job."""

    job_id: JobId
    state: TaskState
    when: When | None
    after_join_id: int | None
    join_ids: Sequence[int]


class Cancelled(NamedTuple):
    """How many open tasks were looked at, the last one's job, and the jobs that are cancelled."""

    num_open: int
    last_job_id: JobId | None
    job_ids: Sequence[JobId]


class Retried(NamedTuple):
    """How many tasks run again, and how many cannot, because their jobs were deleted."""

    num_jobs: int
    num_gone: int


class OwnTask(NamedTuple):
    """The task of a running job: its joins, what it added before, and whether the attempt still has the job."""

    join_ids: Sequence[int]
    added_job_ids: Sequence[JobId]
    is_running: bool


def flow_get(id: int) -> Query[FlowRow]:
    """Return one flow. Raises: NotFound."""
    return Query("flow_get", {"id": id}, lambda rows: _parse_one(id, rows))


def flow_list(
    *, state: FlowState | None = None, before_id: int | None = None, limit: int
) -> Query[list[FlowRow]]:
    """Return flows, newest first: those with ids below `before_id`, and with `state` those in it."""
    params = {"before_id": before_id, "limit": limit, "state": None if state is None else state.value}
    return Query("flow_list", params, lambda rows: [_parse_flow(row) for row in rows])


def flow_task_list(flow_id: int, *, after_job_id: int = 0, limit: int) -> Query[list[ListedTask]]:
    """Return tasks of a flow, by the ids of their jobs: those above `after_job_id`."""

    def parse(row: Row) -> ListedTask:
        job_id, state, when, after_join_id, join_ids = row
        return ListedTask(job_id, TaskState(state), when, after_join_id, join_ids)

    params = {"after_job_id": after_job_id, "flow_id": flow_id, "limit": limit}
    return Query("flow_task_list", params, lambda rows: [parse(row) for row in rows])


def flow_task_get_ended(after: tuple[int, int], *, limit: int) -> Query[Walk]:
    """Look at up to `limit` tasks of flows that run, after a flow and a job."""

    def parse(rows: Sequence[Row]) -> Walk:
        num_walked, last_flow_id, last_job_id, job_ids, states, due_flow_ids, due_join_ids = rows[0]
        due: dict[int, list[int]] = {}
        for flow_id, join_id in zip(due_flow_ids or (), due_join_ids or (), strict=True):
            due.setdefault(flow_id, []).append(join_id)
        ends = {id: _end_of(state) for id, state in zip(job_ids or (), states or (), strict=True)}
        return Walk(num_walked, (last_flow_id or 0, JobId(last_job_id or 0)), ends, due)

    params = {"after_flow_id": after[0], "after_job_id": after[1], "limit": limit}
    return Query("flow_task_get_ended", params, parse)


def flow_task_get_recently_ended(*, within: timedelta, limit: int) -> Query[dict[JobId, TaskState]]:
    """Return how tasks end that are not counted, of the up to `limit` jobs of each state that ended last."""
    params = {"limit": limit, "within": within}
    return Query("flow_task_get_recently_ended", params, _parse_job_ends)


def flow_get_cancelled() -> Query[list[int]]:
    """Return the ids of flows that were cancelled and have not ended."""
    return Query("flow_get_cancelled", {}, lambda rows: [row[0] for row in rows])


def flow_set_cancelled(id: int) -> Query[None]:
    """Record that a flow is cancelled. Concurrency: the flow is locked."""
    return Query("flow_set_cancelled", {"id": id}, parse_none)


def flow_cancel_jobs(id: int, *, after_job_id: int = 0, limit: int) -> Query[Cancelled]:
    """
    Cancel up to `limit` jobs of a flow that have not ended, and ask the clients of running ones to end them.

    Concurrency: the flow is locked. It waits for no job: one that is locked stays as it is.
    """

    def parse(rows: Sequence[Row]) -> Cancelled:
        num_open, last_job_id, job_ids = rows[0]
        return Cancelled(num_open, last_job_id, job_ids or ())

    params = {"after_job_id": after_job_id, "id": id, "limit": limit}
    return Query("flow_cancel_jobs", params, parse, RELEASE_SECONDS)


def flow_retry_jobs(id: int, mode: RetryMode, *, now: datetime | None = None) -> Query[Retried]:
    """
    Let ended jobs of a flow run again, and return how many. `num_gone` is 0 for `failed_only`: that chooses what is there.

    Concurrency: the flow is locked. `flow_count_again` and a release of its joins follow in the same transaction.
    """
    params = {"id": id, "mode": mode.value, "now": now}
    return Query("flow_retry_jobs", params, lambda rows: Retried(*rows[0][:2]), RELEASE_SECONDS)


def flow_count_again(id: int) -> Query[Sequence[int]]:
    """Count the tasks of a flow again, and return its joins that may decide tasks. Concurrency: the flow is locked."""
    return Query("flow_count_again", {"id": id}, lambda rows: [row[0] for row in rows], RELEASE_SECONDS)


def flow_get_outputs(
    job_id: JobId, *, kind: str | None = None, after_job_id: int = 0, limit: int
) -> Query[list[tuple[JobId, str | None]]]:
    """
    Return the JSON texts of outputs of completed tasks that a job waited for, by id: those above `after_job_id`.

    None stands for a job that was deleted, of whatever kind.
    """
    params = {"after_job_id": after_job_id, "job_id": job_id, "kind": kind, "limit": limit}
    return Query("flow_get_outputs", params, lambda rows: [(row[0], row[1]) for row in rows])


def flow_task_lock(
    job_id: JobId, *, attempted_at: datetime | None, attempted_by: str | None
) -> Query[OwnTask | None]:
    """Return the task of a running attempt, or None if it was counted or there is none. Concurrency: the flow is locked."""
    params = {"attempted_at": attempted_at, "attempted_by": attempted_by, "job_id": job_id}
    return Query("flow_task_lock", params, lambda rows: OwnTask(*rows[0]) if rows else None)


def flow_add_tasks(
    flow_id: int, job_id: JobId, *, join_ids: Sequence[int], added_job_ids: Sequence[JobId]
) -> Query[None]:
    """Count tasks that a running job added: what waits for it waits for them too. Concurrency: the flow is locked."""
    params = {
        "added_job_ids": list(added_job_ids),
        "flow_id": flow_id,
        "job_id": job_id,
        "join_ids": list(join_ids),
    }
    return Query("flow_add_tasks", params, parse_none)


def flow_delete_ended(*, horizon: datetime, limit: int) -> Query[int]:
    """Delete up to `limit` flows that ended before `horizon`, and return how many."""
    return Query("flow_delete_ended", {"horizon": horizon, "limit": limit}, parse_count, RELEASE_SECONDS)


def _end_of(state: str | None) -> TaskState:
    """Return how a task ends whose job is in a final state, or was deleted."""
    return TaskState.COMPLETED if state == JobState.COMPLETED else TaskState.FAILED


def _parse_job_ends(rows: Sequence[Row]) -> dict[JobId, TaskState]:
    return {id: _end_of(state) for id, state in rows}


def _parse_one(id: int, rows: Sequence[Row]) -> FlowRow:
    for row in rows:
        return _parse_flow(row)
    raise NotFound("flow", id)


def _parse_flow(row: Row) -> FlowRow:
    return FlowRow(*row[:NUM_FLOW_COLUMNS])
