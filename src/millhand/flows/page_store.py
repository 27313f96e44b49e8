"""Statements for what the web page shows of flows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from millhand.core.job import JobId, JobState
from millhand.db.query import Query, Row
from millhand.flows.flow import TaskState, When


class FlowOfJob(msgspec.Struct, frozen=True, kw_only=True):
    """
    The flow of a job.

    Attributes:
        id: The flow's id.
        name: The flow's name.
        state: The state of the job's task.
        when: How the tasks must end that it waits for; None if it waits for none.
        num_before: How many of these have not ended.
    """

    id: int
    name: str
    state: TaskState
    when: When | None
    num_before: int


class TaskLine(msgspec.Struct, frozen=True, kw_only=True):
    """A task in a list. What is of its job is None if the job was deleted."""

    job_id: JobId
    state: TaskState
    name: str | None
    kind: str | None
    queue: str | None
    job_state: JobState | None
    attempt: int | None
    max_attempts: int | None
    finalized_at: datetime | None


class TaskCount(msgspec.Struct, frozen=True, kw_only=True):
    """
    Tasks of a flow that wait for the same tasks, that the same tasks wait for, and that have the same state.

    Attributes:
        first_job_id: The least id of their jobs.
        after_join_id: The join that they wait for.
        when: How the tasks of that join must end.
        join_ids: The joins that they are part of.
        kind: The kind of their jobs; of the first one if jobs were not read; None if that was deleted.
        name: The name of the first task.
        state: A state of tasks, or that of their jobs for released ones.
        num_tasks: How many there are.
    """

    first_job_id: JobId
    after_join_id: int | None
    when: When | None
    join_ids: tuple[int, ...]
    kind: str | None
    name: str | None
    state: str
    num_tasks: int


def flow_get_of_job(job_id: JobId) -> Query[FlowOfJob | None]:
    """Return the flow of a job; None if the job is no task."""

    def parse(rows: Sequence[Row]) -> FlowOfJob | None:
        for id, name, state, when, num_before in rows:
            return FlowOfJob(id=id, name=name, state=TaskState(state), when=when, num_before=num_before)
        return None

    return Query("flow_get_of_job", {"job_id": job_id}, parse)


def flow_task_list_lines(
    flow_id: int, *, state: TaskState | None = None, after_job_id: int = 0, limit: int
) -> Query[list[TaskLine]]:
    """Return tasks of a flow by the ids of their jobs: those above `after_job_id`, and with `state` those in it."""

    def parse(row: Row) -> TaskLine:
        (job_id, task_state, name, kind, queue, job_state, attempt, max_attempts, finalized_at) = row
        return TaskLine(
            job_id=job_id,
            state=TaskState(task_state),
            name=name,
            kind=kind,
            queue=queue,
            job_state=None if job_state is None else JobState(job_state),
            attempt=attempt,
            max_attempts=max_attempts,
            finalized_at=finalized_at,
        )

    params = {
        "after_job_id": after_job_id,
        "flow_id": flow_id,
        "limit": limit,
        "state": None if state is None else state.value,
    }
    return Query("flow_task_list_lines", params, lambda rows: [parse(row) for row in rows])


def flow_task_count_groups(
    flow_id: int, *, has_jobs: bool, num_first: int, num_last: int, limit: int
) -> Query[list[TaskCount]]:
    """
    Count the first and the last tasks of a flow in up to `limit` groups, by the ids of their first jobs.

    Args:
        flow_id: The flow's id.
        has_jobs: Whether each job is read, for its kind and state.
        num_first: How many of the first tasks are counted.
        num_last: How many of the last tasks are counted, if there are more.
        limit: How many groups are returned.
    """

    def parse(row: Row) -> TaskCount:
        first_job_id, after_join_id, when, join_ids, kind, name, state, num_tasks = row
        return TaskCount(
            first_job_id=first_job_id,
            after_join_id=after_join_id,
            when=when,
            join_ids=tuple(join_ids),
            kind=kind,
            name=name,
            state=state,
            num_tasks=num_tasks,
        )

    params = {
        "flow_id": flow_id,
        "has_jobs": has_jobs,
        "limit": limit,
        "num_first": num_first,
        "num_last": num_last,
    }
    return Query("flow_task_count_groups", params, lambda rows: [parse(row) for row in rows])
