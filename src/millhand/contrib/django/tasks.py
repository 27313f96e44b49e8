"""The backend for `django.tasks` of Django 6.0 and newer: set it in TASKS."""

from __future__ import annotations

from django.tasks.backends.base import BaseTaskBackend

from millhand.contrib.django.task_api import DJANGO
from millhand.contrib.django.task_backend import MillhandTasks


class MillhandBackend(MillhandTasks, BaseTaskBackend):
    """Runs tasks as jobs; see `task_backend`."""

    api_name = DJANGO
