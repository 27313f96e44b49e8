"""The backend of the package `django-tasks`, which has Django's Tasks for older releases; else as `tasks`."""

from __future__ import annotations

from django_tasks.backends.base import BaseTaskBackend

from millhand.contrib.django.task_api import BACKPORT
from millhand.contrib.django.task_backend import MillhandTasks


class MillhandBackend(MillhandTasks, BaseTaskBackend):
    """Tasks as jobs; see `task_backend` for what becomes of what."""

    api_name = BACKPORT
