"""Work the jobs of a test, and delete them."""

from __future__ import annotations

import asyncio

from django.db import connection

from millhand.contrib.django.discovery import whole_config
from millhand.contrib.django.management.commands.millhand_worker import run_django_worker


def work() -> None:
    """Work all due jobs, as `manage.py millhand_worker --until-empty` does."""
    ended = run_django_worker(whole_config(), "default", until_empty=True)
    asyncio.set_event_loop(None)

    assert (ended.is_graceful, ended.has_all_ended) == (True, True)


def empty_tables() -> None:
    """Delete committed rows; Django empties only the tables that it has created."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE river_job, river_queue, river_leader")
