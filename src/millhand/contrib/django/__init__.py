"""
Millhand as a Django app: `INSTALLED_APPS = [..., "millhand.contrib.django"]`.

    settings.MILLHAND           the fields of `Config` in capitals, decoded strictly
    <app>/jobs.py               the workers and periodic jobs of an app, found automatically
    client()                    inserts and controls jobs on Django's connection
    manage.py migrate           creates River's tables and ours
    manage.py millhand_worker   works the jobs
    the admin                   shows jobs and queues, and changes them through the client
    TASKS                       `millhand.contrib.django.tasks.MillhandBackend`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import django.apps

if TYPE_CHECKING:
    from millhand.contrib.django.apps import MillhandConfig
    from millhand.sync_client import SyncClient

LABEL = "millhand"


def client() -> SyncClient:
    """
    Return the project's client, which uses the calling thread's connection and its open `transaction.atomic`.

    It is created at the first call, from `MILLHAND` and the workers in `<app>/jobs.py`.

    Raises: ConfigError. Concurrency: any number of threads.
    """
    return cast("MillhandConfig", django.apps.apps.get_app_config(LABEL)).client()
