"""The workers of Django's tasks: one for plain functions, and one for coroutine functions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils import timezone
from django.utils.module_loading import import_string

from millhand.contrib.django.task_api import TaskApi, loaded_task
from millhand.contrib.django.task_args import ERRORS, AsyncTaskArgs, TaskArgs, task_result
from millhand.contrib.django.task_backend import MillhandTasks
from millhand.core.worker import Worker, Workers
from millhand.core.worker_job import Job
from millhand.engine.attempt_outcome import outcome_of


def task_workers() -> Iterable[Worker]:
    if not any(
        _is_ours(str(backend.get("BACKEND", ""))) for backend in getattr(settings, "TASKS", {}).values()
    ):
        return ()
    workers = Workers()
    workers.add()(work_task)
    workers.add()(work_async_task)
    return workers


def work_task(job: Job[TaskArgs]) -> None:
    call = _Call.of(job)
    with call.recording_errors():
        value = call.task.call(*call.args, **call.kwargs)
    call.succeed(value)


async def work_async_task(job: Job[AsyncTaskArgs]) -> None:
    call = _Call.of(job)
    with call.recording_errors():
        value = await call.task.acall(*call.args, **call.kwargs)
    call.succeed(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One attempt of a task, which records its outcome and sends Django's signals."""

    api: TaskApi
    args: list[Any]
    job: Job[Any]
    kwargs: dict[str, Any]
    result: Any
    task: Any

    @classmethod
    def of(cls, job: Job[Any]) -> _Call:
        given: TaskArgs = job.args
        task, api = loaded_task(given.task)
        task = task.using(priority=given.priority, queue_name=job.queue, backend=given.backend)
        result = task_result(job.row, task, api, given)
        args = [api.base.TaskContext(task_result=result), *given.args] if task.takes_context else given.args
        call = cls(api=api, args=args, job=job, kwargs=given.kwargs, result=result, task=task)
        call._send("task_started")
        return call

    def succeed(self, value: object) -> None:
        output = self.api.normalize_json(value)
        self.job.record_output(output)
        self._end("SUCCESSFUL")
        object.__setattr__(self.result, "_return_value", output)
        self._send("task_finished")

    @contextlib.contextmanager
    def recording_errors(self) -> Iterator[None]:
        """Record the class of an error; if no attempt follows, also that the task has failed."""
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        outcome = outcome_of(error, self.job)
        if outcome in ("snoozed", "interrupted"):  # the attempt is not counted
            return
        kind = type(error)
        paths = self.job.metadata.get(ERRORS)
        kept = dict(paths) if isinstance(paths, Mapping) else {}
        kept[str(self.job.attempt)] = f"{kind.__module__}.{kind.__qualname__}"
        self.job.set_metadata(ERRORS, kept)
        if outcome == "cancelled" or self.job.attempt >= self.job.max_attempts:
            self._end("FAILED")
            self._send("task_finished")

    def _end(self, status: str) -> None:
        # A result is frozen; Django's own backends change theirs the same way.
        object.__setattr__(self.result, "status", self.api.base.TaskResultStatus(status))
        object.__setattr__(self.result, "finished_at", timezone.now())

    def _send(self, signal: str) -> None:
        sender = type(self.task.get_backend())
        getattr(self.api.signals, signal).send(sender, task_result=self.result)


def _is_ours(path: str) -> bool:
    """Return whether a dotted path names a Millhand backend or a subclass of one."""
    try:
        found = import_string(path)
    except ImportError:  # Django's own check reports it
        return False
    return isinstance(found, type) and issubclass(found, MillhandTasks)
