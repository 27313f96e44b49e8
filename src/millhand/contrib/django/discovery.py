"""
Collect the `Workers`, `periodic_jobs` and `schedules` of each `<app>/jobs.py`, and manage Django's connections around jobs.

A module may have several `Workers` under any names, and may import those of another module: each counts once.

A plain function uses the connections of its thread, which later jobs of that thread reuse according to `CONN_MAX_AGE`.
A coroutine has a thread of its own for the ORM, as under ASGI, and its connections are closed after the job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import Any

import msgspec
from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.apps import apps
from django.db import connections
from django.utils.module_loading import module_has_submodule

from millhand.contrib.django.setting import NAME, errors_of, project_config
from millhand.contrib.django.task_worker import task_workers
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.core.periodic import PeriodicJob
from millhand.core.schedule import JobSchedule
from millhand.core.worker import Worker, Workers
from millhand.core.worker_job import Job
from millhand.db.driver.django_executor import is_kept_open

MODULE = "jobs"
PERIODIC_JOBS = "periodic_jobs"
SCHEDULES = "schedules"
Call = Callable[[Job[Any]], Any]


@dataclass(frozen=True, slots=True)
class Discovered:
    """The workers, periodic jobs and kept schedules of all apps; the workers manage Django's connections."""

    workers: Workers
    periodic_jobs: tuple[PeriodicJob, ...]
    schedules: tuple[JobSchedule, ...]


def discovered() -> Discovered:
    """Return the workers, periodic jobs and schedules of every installed app. Raises: ConfigError; any error of a module."""
    modules = list(_modules())
    workers = Workers(skip_kind_validation=True)  # each app has validated its own
    found = {id(one): one for module in modules for one in vars(module).values() if isinstance(one, Workers)}
    for each in (*found.values(), task_workers()):
        workers.include([_with_connections(worker) for worker in each])
    jobs = {id(job): job for module in modules for job in _listed(module, PERIODIC_JOBS)}
    schedules = {id(one): one for module in modules for one in _listed(module, SCHEDULES)}
    return Discovered(workers, tuple(jobs.values()), tuple(schedules.values()))


def whole_config() -> Config:
    """Return the project's configuration with its workers, periodic jobs and schedules. Raises: as `discovered`."""
    found, config = discovered(), project_config()
    jobs = found.periodic_jobs if config.leader_election else ()  # otherwise the leader inserts them
    with errors_of(NAME):
        return replace(config, workers=found.workers, periodic_jobs=jobs, schedules=found.schedules)


def _modules() -> Iterator[ModuleType]:
    for app in apps.get_app_configs():
        if module_has_submodule(app.module, MODULE):
            module = import_module(f"{app.name}.{MODULE}")
            if getattr(module.__spec__, "_initializing", False):  # it has only some of its workers
                raise ConfigError(
                    f"{module.__name__} must be imported before its workers are collected, got a call while it is "
                    "imported; call client() in a function"
                )
            yield module


def _listed(module: ModuleType, name: str) -> Iterator[Any]:
    listed = getattr(module, name, ())
    if not isinstance(listed, list | tuple):
        raise ConfigError(f"{name} of {module.__name__} must be a list, got {listed!r}")
    yield from listed


def _with_connections(worker: Worker) -> Worker:
    """Return a worker that closes or reuses Django's connections after each job."""
    around = _around_coroutine if worker.is_async else _around_function
    return msgspec.structs.replace(worker, call=around(worker.call))


def _around_function(work: Call) -> Call:
    def call(job: Job[Any]) -> object:
        _close("close_if_unusable_or_obsolete")
        try:
            return work(job)
        finally:
            _close("close_if_unusable_or_obsolete")

    return call


def _around_coroutine(work: Call) -> Call:
    async def call(job: Job[Any]) -> None:
        async with ThreadSensitiveContext() as context:
            ended_with = await _caught(work, job)  # asgiref would change the traceback in a `finally`
            if context in SyncToAsync.context_to_thread_executor:  # otherwise the job did not use the ORM
                await sync_to_async(_close)("close")
        if ended_with is not None:
            raise ended_with

    return call


def _close(method: str) -> None:
    """Call a closing method of this thread's connections, except of the one of a test."""
    for connection in connections.all(initialized_only=True):
        if not is_kept_open(connection):
            getattr(connection, method)()


async def _caught(work: Call, job: Job[Any]) -> BaseException | None:
    try:
        await work(job)
    except BaseException as error:  # noqa: BLE001 - raised again once the connections are closed
        return error
    return None
