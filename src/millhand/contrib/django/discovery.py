"""
Collect the `Workers` and `periodic_jobs` of each `<app>/jobs.py`.

A module may have several `Workers` under any names, and may import those of another module: each counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from millhand.config import Config
from millhand.contrib.django.connections import with_connections
from millhand.contrib.django.setting import NAME, project_config
from millhand.contrib.django.task_worker import task_workers
from millhand.errors import ConfigError
from millhand.periodic import PeriodicJob
from millhand.worker import Workers

MODULE = "jobs"
PERIODIC_JOBS = "periodic_jobs"


@dataclass(frozen=True, slots=True)
class Discovered:
    """The workers and periodic jobs of all apps; the workers manage Django's connections."""

    workers: Workers
    periodic_jobs: tuple[PeriodicJob, ...]


def discovered() -> Discovered:
    """
    Import `jobs` of every installed app, and return its workers and periodic jobs.

    Raises: ConfigError for a kind that is registered twice; any error of such a module.
    """
    modules = list(_modules())
    workers = Workers(skip_kind_validation=True)  # each app has validated its own
    found = {id(one): one for module in modules for one in vars(module).values() if isinstance(one, Workers)}
    for each in (*found.values(), task_workers()):
        workers.include([with_connections(worker) for worker in each])
    jobs = {id(job): job for module in modules for job in _periodic_jobs(module)}
    return Discovered(workers, tuple(jobs.values()))


def whole_config() -> Config:
    """Return the project's configuration with its workers and periodic jobs. Raises: as `discovered`."""
    found, config = discovered(), project_config()
    jobs = found.periodic_jobs if config.leader_election else ()  # otherwise the leader inserts them
    try:
        return replace(config, workers=found.workers, periodic_jobs=jobs)
    except ConfigError as error:
        raise ConfigError(f"{NAME}: {error}") from error


def _modules() -> Iterator[ModuleType]:
    for app in apps.get_app_configs():
        if module_has_submodule(app.module, MODULE):
            yield import_module(f"{app.name}.{MODULE}")


def _periodic_jobs(module: ModuleType) -> Iterator[PeriodicJob]:
    jobs = getattr(module, PERIODIC_JOBS, ())
    if not isinstance(jobs, list | tuple):
        raise ConfigError(f"{PERIODIC_JOBS} of {module.__name__} must be a list, got {jobs!r}")
    yield from jobs
