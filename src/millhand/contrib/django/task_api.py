"""
Django's Tasks from either source: `django.tasks` since Django 6.0, or the package `django-tasks` before.

Their classes look alike but differ, so a result must use the classes of its task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from django.utils.module_loading import import_string

DJANGO = "django.tasks"
BACKPORT = "django_tasks"


@dataclass(frozen=True, slots=True)
class TaskApi:
    """The modules of one of the two, under the names that both have."""

    base: ModuleType
    exceptions: ModuleType
    handler: ModuleType
    normalize_json: Callable[[Any], Any]
    signals: ModuleType

    @property
    def invalid_task(self) -> type[Exception]:
        name = "InvalidTask" if hasattr(self.exceptions, "InvalidTask") else "InvalidTaskError"
        error: type[Exception] = getattr(self.exceptions, name)
        return error


def task_api(name: str) -> TaskApi:
    """Return the API of `django.tasks` or `django_tasks`. Raises: ImportError."""
    json_module = "django.utils.json" if name == DJANGO else f"{BACKPORT}.utils"
    return TaskApi(
        base=import_module(f"{name}.base"),
        exceptions=import_module(f"{name}.exceptions"),
        handler=import_module(name),
        normalize_json=import_module(json_module).normalize_json,
        signals=import_module(f"{name}.signals"),
    )


def loaded_task(path: str) -> tuple[Any, TaskApi]:
    """Return the task at a dotted path, and its API. Raises: ImportError; ValueError for another object."""
    task = import_string(path)
    name = DJANGO if type(task).__module__.startswith(DJANGO) else BACKPORT
    if not hasattr(task, "module_path") or not hasattr(task, "func"):
        raise ValueError(f"{path!r} must be a task, got {type(task).__name__}; decorate it with @task")
    return task, task_api(name)
