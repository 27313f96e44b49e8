"""The workers of Django's tasks: one for plain functions, in threads, and one for coroutine functions, on the event loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string

from millhand.contrib.django.task_api import TaskApi, loaded_task
from millhand.contrib.django.task_args import ERRORS, AsyncTaskArgs, TaskArgs, task_result
from millhand.contrib.django.task_backend import MillhandTasks
from millhand.errors import JobCancel, JobSignal
from millhand.job import Job
from millhand.worker import Worker, Workers


def task_workers() -> Iterable[Worker]:
    """Return the workers of tasks, if TASKS has a backend of ours."""
    if not any(_is_ours(str(said.get("BACKEND", ""))) for said in _backends()):
        return ()
    workers = Workers()
    workers.add()(work_task)
    workers.add()(work_async_task)
    return workers


def work_task(job: Job[TaskArgs]) -> None:
    """Call the task's function, in this thread."""
    call = _Call.of(job)
    try:
        value = call.task.call(*call.args, **call.kwargs)
    except BaseException as error:
        call.fail(error)
        raise
    call.succeed(value)


async def work_async_task(job: Job[AsyncTaskArgs]) -> None:
    """Await the task's function."""
    call = _Call.of(job)
    try:
        value = await call.task.acall(*call.args, **call.kwargs)
    except BaseException as error:
        call.fail(error)
        raise
    call.succeed(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One attempt of a task: what is called, and who is told."""

    api: TaskApi
    args: list[Any]
    job: Job[Any]
    kwargs: dict[str, Any]
    result: Any
    task: Any

    @classmethod
    def of(cls, job: Job[Any]) -> _Call:
        told: TaskArgs = job.args
        task, api = loaded_task(told.task)
        task = task.using(priority=told.priority, queue_name=job.queue, backend=told.backend)
        result = task_result(job.row, task, api, told)
        args = [api.base.TaskContext(task_result=result), *told.args] if task.takes_context else told.args
        call = cls(api=api, args=args, job=job, kwargs=told.kwargs, result=result, task=task)
        call._tell("task_started")
        return call

    def succeed(self, value: object) -> None:
        """Keep what the function returned."""
        output = self.api.normalize_json(value)
        self.job.record_output(output)
        self._end("SUCCESSFUL")
        object.__setattr__(self.result, "_return_value", output)
        self._tell("task_finished")

    def fail(self, error: BaseException) -> None:
        """Keep the class of what it raised; of the last attempt tell that the task has failed."""
        if isinstance(error, JobSignal) and not isinstance(error, JobCancel):
            return
        kind = type(error)
        paths = self.job.metadata.get(ERRORS)
        kept = dict(paths) if isinstance(paths, Mapping) else {}
        kept[str(self.job.attempt)] = f"{kind.__module__}.{kind.__qualname__}"
        self.job.set_metadata(ERRORS, kept)
        if self.job.attempt >= self.job.max_attempts or isinstance(error, JobCancel):
            self._end("FAILED")
            self._tell("task_finished")

    def _end(self, status: str) -> None:
        # A result is frozen; Django's own backends change theirs so.
        object.__setattr__(self.result, "status", self.api.base.TaskResultStatus(status))
        object.__setattr__(self.result, "finished_at", timezone.now())

    def _tell(self, signal: str) -> None:
        sender = type(self.task.get_backend())
        getattr(self.api.signals, signal).send(sender, task_result=self.result)


def _backends() -> Iterable[Mapping[str, Any]]:
    return getattr(settings, "TASKS", {}).values()


def _is_ours(path: str) -> bool:
    """Whether a dotted path leads to a backend of ours, or to one that is made of it."""
    try:
        found = import_string(path)
    except ImportError:  # which Django's own check tells of
        return False
    return isinstance(found, type) and issubclass(found, MillhandTasks)
