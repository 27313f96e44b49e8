"""The args of a Django task's job, and the conversion of its row to the task's result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from millhand.contrib.django.task_api import TaskApi, loaded_task
from millhand.core.job import JobRow, JobState, Json

# Metadata key of the exceptions' dotted paths by attempt; the row's errors have only their text.
ERRORS = "django_task_errors"

STATUSES: Mapping[JobState, str] = {
    JobState.AVAILABLE: "READY",
    JobState.CANCELLED: "FAILED",
    JobState.COMPLETED: "SUCCESSFUL",
    JobState.DISCARDED: "FAILED",
    JobState.PENDING: "READY",
    JobState.RETRYABLE: "READY",
    JobState.RUNNING: "RUNNING",
    JobState.SCHEDULED: "READY",
}


class TaskArgs(msgspec.Struct, frozen=True, kw_only=True):
    """A task that is a plain function: its dotted path and its arguments."""

    kind: ClassVar[str] = "django_task"

    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    backend: str
    priority: int = 0


class AsyncTaskArgs(TaskArgs, frozen=True, kw_only=True):
    """A task that is a coroutine function, with a kind of its own because its worker differs."""

    kind: ClassVar[str] = "django_async_task"


KINDS = (TaskArgs.kind, AsyncTaskArgs.kind)


def result_of(row: JobRow) -> Any:  # noqa: ANN401 - a TaskResult, of either API
    """Return the row of a task's job as a `TaskResult`. Raises: ImportError or ValueError for a removed task."""
    args = msgspec.json.decode(row.encoded_args, type=TaskArgs)
    task, api = loaded_task(args.task)
    run_after = row.scheduled_at if row.scheduled_at > row.created_at and not row.attempt else None
    task = task.using(priority=args.priority, queue_name=row.queue, run_after=run_after, backend=args.backend)
    return task_result(row, task, api, args)


def task_result(row: JobRow, task: Any, api: TaskApi, args: TaskArgs) -> Any:  # noqa: ANN401 - as above
    result = api.base.TaskResult(
        task=task,
        id=str(row.id),
        status=api.base.TaskResultStatus(STATUSES[row.state]),
        enqueued_at=row.created_at,
        started_at=row.errors[0].at if row.errors else row.attempted_at,
        finished_at=row.finalized_at,
        last_attempted_at=row.attempted_at,
        args=args.args,
        kwargs=args.kwargs,
        backend=args.backend,
        errors=_errors(row, api),
        worker_ids=list(row.attempted_by),
    )
    object.__setattr__(result, "_return_value", row.output)  # as Django's own backends do
    return result


def _errors(row: JobRow, api: TaskApi) -> list[Any]:
    paths = row.metadata.get(ERRORS)
    known: Mapping[str, Json] = paths if isinstance(paths, dict) else {}
    return [
        api.base.TaskError(
            exception_class_path=str(known.get(str(error.attempt), "builtins.Exception")),
            traceback=error.trace or error.error,
        )
        for error in row.errors
    ]
