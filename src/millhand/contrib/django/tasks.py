"""The backend of `django.tasks`, part of Django since 6.0: TASKS names `millhand.contrib.django.tasks.MillhandBackend`."""

from __future__ import annotations

from django.tasks.backends.base import BaseTaskBackend

from millhand.contrib.django.task_api import DJANGO
from millhand.contrib.django.task_backend import MillhandTasks


class MillhandBackend(MillhandTasks, BaseTaskBackend):
    """Tasks as jobs; see `task_backend` for what becomes of what."""

    api_name = DJANGO
