"""
Millhand as an app of Django's: `INSTALLED_APPS = [..., "millhand.contrib.django"]`.

    settings.MILLHAND           what `Config` is told, key for key in capitals; decoded strictly
    <app>/jobs.py               the workers of an app, and its periodic jobs; found by itself
    client()                    inserts and controls, on Django's own connection
    manage.py migrate           River's tables and ours, by our migrator
    manage.py millhand_worker   works them
    the admin                   jobs and queues, changed by our control and never by UPDATE
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
    Return the client of this project: on the calling thread's connection, inside whatever `transaction.atomic` is open.

    There is one, made when it is asked for first, of `MILLHAND` and of the workers in `<app>/jobs.py`.

    Raises: ConfigError. Concurrency: any number of threads.
    """
    return cast("MillhandConfig", django.apps.apps.get_app_config(LABEL)).client()
