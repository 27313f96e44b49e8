"""
The common part of the backends `tasks` and `backport`: Django's Tasks on River's tables.

    enqueue       inserts on Django's connection, as part of the open `transaction.atomic`
    priority      becomes River's: 1 … 100 become 1, which is worked first; 0 becomes 2, -50 … -1 3, and -100 … -51 4
    run_after     becomes the job's scheduled_at
    queue_name    becomes the job's queue; QUEUES of the backend lists the allowed names
    a result      shows the job's row: READY while the job waits, also for a retry; RUNNING; SUCCESSFUL; FAILED if no
                  attempts are left or the job was cancelled
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any

from django.utils import timezone

from millhand.contrib.django import client
from millhand.contrib.django.task_api import TaskApi, task_api
from millhand.contrib.django.task_args import KINDS, AsyncTaskArgs, TaskArgs, result_of, task_result
from millhand.core.errors import NotFound
from millhand.core.insert_opts import InsertOpts, queue_name_error
from millhand.shells.settings.decode import check_keys

LOW_PRIORITY = -50
OPTIONS = ("MAX_ATTEMPTS",)


class MillhandTasks:
    """The behaviour of both backends; each is also a `BaseTaskBackend` of its own API."""

    api_name: str

    alias: str
    options: Mapping[str, Any]

    supports_async_task = True
    supports_defer = True
    supports_get_result = True
    supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)  # type: ignore[call-arg]  # the API's base class is next in the MRO
        check_keys(self.options, OPTIONS, f"TASKS[{alias!r}]['OPTIONS']")
        self._opts = InsertOpts(max_attempts=self.options.get("MAX_ATTEMPTS"))

    @property
    def api(self) -> TaskApi:
        return task_api(self.api_name)

    def validate_task(self, task: Any) -> None:  # noqa: ANN401 - a Task, of either API
        super().validate_task(task)  # type: ignore[misc]  # as above
        error = queue_name_error(task.queue_name)
        if error is not None:
            raise self.api.invalid_task(f"queue_name {error}")

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as above
        """Insert a job that calls the task with `args` and `kwargs`. Raises: InvalidTask; InvalidJob; DriverError."""
        self.validate_task(task)
        api = self.api
        args_type = AsyncTaskArgs if iscoroutinefunction(task.func) else TaskArgs
        task_args = args_type(
            task=task.module_path,
            args=api.normalize_json(list(args)),
            kwargs=api.normalize_json(dict(kwargs)),
            backend=self.alias,
            priority=task.priority,
        )
        run_after = task.run_after
        if run_after and timezone.is_naive(run_after):  # without USE_TZ, it is in the server's time zone
            run_after = timezone.make_aware(run_after)
        opts = InsertOpts(
            max_attempts=self._opts.max_attempts,
            priority=river_priority(task.priority),
            queue=task.queue_name,
            scheduled_at=run_after,
        )
        row = client().insert(task_args, opts).job
        result = task_result(row, task, api, task_args)
        api.signals.task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> Any:  # noqa: ANN401 - a TaskResult, of either API
        """Return the result of a task by its job's id. Raises: TaskResultDoesNotExist."""
        missing = self.api.exceptions.TaskResultDoesNotExist(result_id)
        if not (result_id.isascii() and result_id.isdigit()):
            raise missing
        try:
            row = client().jobs.get(int(result_id))
        except NotFound:
            raise missing from None
        if row.kind not in KINDS:
            raise missing
        try:
            return result_of(row)
        except (ImportError, ValueError) as error:
            raise missing from error


def river_priority(priority: int) -> int:
    """Return River's priority, where 1 is first, for one of Django's, where 100 is first."""
    if priority > 0:
        return 1
    if priority == 0:
        return 2
    return 3 if priority >= LOW_PRIORITY else 4
