"""Statements that report on flows: their tasks in groups, and the tasks that failed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from millhand.core.job import JobId
from millhand.db.query import Query, Row
from millhand.flows.flow import When

# A flow of a million tasks takes some seconds.
REPORT_SECONDS = 60.0
STATES = (
    "waiting",
    "pending",
    "scheduled",
    "available",
    "retryable",
    "running",
    "completed",
    "failed",
    "skipped",
)


class TaskGroup(msgspec.Struct, frozen=True, kw_only=True):
    """
    A task of a flow, or tasks of one kind that wait for the same ones and for which the same ones wait.

    Attributes:
        first_name: The name of the task with the lowest id; None if its job was deleted.
        last_name: The name of the task with the highest id; None for one task, or if its job was deleted.
        kind: The kind of the jobs; None if they were deleted.
        after_join_id: The join that they wait for; None if they wait for none.
        join_ids: The joins of which they are part.
        is_added: Whether a running job added them.
        has_added: Whether one of them added tasks.
        states: How many tasks there are in each state. The state is that of the job while the task is released and open.
        attempt: The highest number of attempts that have begun.
        waited_seconds: The longest time from when a job was due to the start of its last attempt, or to now.
        ran_seconds: The longest last attempt, to its end or to now.
    """

    first_job_id: JobId
    last_job_id: JobId
    first_name: str | None
    last_name: str | None
    kind: str | None
    after_join_id: int | None
    when: When | None
    join_ids: tuple[int, ...]
    is_added: bool
    has_added: bool
    states: dict[str, int]
    attempt: int | None
    waited_seconds: float | None
    ran_seconds: float | None

    @property
    def num_tasks(self) -> int:
        """How many tasks there are in the group."""
        return sum(self.states.values())


class FailedTask(msgspec.Struct, frozen=True):
    """
    A task that failed, and not because another one failed.

    Attributes:
        state: The state of its job; None if it was deleted.
        error: The last error of its job; None if it has none.
    """

    job_id: JobId
    name: str | None
    kind: str | None
    state: str | None
    attempt: int | None
    error: str | None


class StuckFlow(msgspec.Struct, frozen=True):
    """
    A flow that runs, and of which no job does or will. `last_at` is when its last job ended, or when it was inserted.

    Each job id is that of the first such task: its job has ended or is gone and was not counted; what it waits for has
    ended; its job waits in a halted partition; its job is pending and waits for nothing.
    """

    id: int
    name: str
    num_open: int
    last_at: datetime
    ended_job_id: int | None
    decided_job_id: int | None
    halted_job_id: int | None
    pending_job_id: int | None


def flow_task_get_groups(flow_id: int, *, num_listed: int) -> Query[list[TaskGroup]]:
    """Return the tasks of a flow, by id. Groups of up to `num_listed` tasks are returned as one group for each task."""
    params = {"flow_id": flow_id, "num_listed": num_listed}
    return Query("flow_task_get_groups", params, _parse_groups, REPORT_SECONDS)


def flow_task_get_failed(flow_id: int, *, limit: int) -> Query[list[FailedTask]]:
    """Return the first tasks of a flow that failed, by id; not those that were cancelled because another one failed."""
    params = {"flow_id": flow_id, "limit": limit}
    return Query(
        "flow_task_get_failed", params, lambda rows: [FailedTask(*row) for row in rows], REPORT_SECONDS
    )


def _parse_groups(rows: Sequence[Row]) -> list[TaskGroup]:
    groups = []
    for row in rows:
        (
            first_id,
            last_id,
            first_name,
            last_name,
            kind,
            after,
            when,
            joins,
            is_added,
            has_added,
            nums,
            *rest,
        ) = row
        attempt, waited, ran = rest
        groups.append(
            TaskGroup(
                first_job_id=first_id,
                last_job_id=last_id,
                first_name=first_name,
                last_name=last_name,
                kind=kind,
                after_join_id=after,
                when=when,
                join_ids=tuple(joins),
                is_added=is_added,
                has_added=has_added,
                states={state: num for state, num in zip(STATES, nums, strict=True) if num},
                attempt=attempt,
                waited_seconds=waited,
                ran_seconds=ran,
            )
        )
    return groups


def flow_list_stuck(
    *, before: datetime, num_flows: int, num_tasks: int
) -> Query[tuple[list[StuckFlow], int]]:
    """
    Return flows that have not gone on since `before`, and how many flows were left out.

    It looks at the oldest `num_flows` flows, and of these at the smallest, until they have `num_tasks` tasks together.
    """
    params = {"before": before, "num_flows": num_flows, "num_tasks": num_tasks}
    return Query("flow_list_stuck", params, _parse_stuck)


def _parse_stuck(rows: Sequence[Row]) -> tuple[list[StuckFlow], int]:
    *flows, last = rows
    return [StuckFlow(*row[:-1]) for row in flows], int(last[-1])
