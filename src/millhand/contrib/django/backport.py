"""The backend for the package `django-tasks`, which provides Django's Tasks for releases before 6.0."""

from __future__ import annotations

from django_tasks.backends.base import BaseTaskBackend

from millhand.contrib.django.task_api import BACKPORT
from millhand.contrib.django.task_backend import MillhandTasks


class MillhandBackend(MillhandTasks, BaseTaskBackend):
    """Runs tasks as jobs; see `task_backend`."""

    api_name = BACKPORT
