"""Claims about `manage.py millhand_worker` and the migrations."""

from __future__ import annotations

import asyncio
import io
import time
from types import SimpleNamespace

from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import TransactionTestCase

from django_cases.jobs import FailInLoop, SeeLoop, SeeThread
from django_cases.work_jobs import empty_tables, work
from millhand.contrib.django import client
from millhand.contrib.django.models import Job
from millhand.contrib.django.setting import project_config
from millhand.contrib.django.tables import Versions
from millhand.db.driver.django import django_url
from shop.jobs import Confirm

GENEROUS_SECONDS = 20.0


class CommandCase(TransactionTestCase):
    def setUp(self) -> None:
        self.addCleanup(empty_tables)

    def test_jobs_close_their_connections(self) -> None:
        """The ORM's connections are closed after a job; a coroutine uses one connection."""
        client().insert_many([SeeThread(), SeeLoop(), FailInLoop()])
        work()

        rows = {job.kind: job for job in Job.objects.all()}
        seen = [rows["see_thread"].metadata["output"], *rows["see_loop"].metadata["output"]]
        # The server's process ends a little later than its connection.
        ends_at = time.monotonic() + GENEROUS_SECONDS
        with connection.cursor() as cursor:
            while True:
                cursor.execute("SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)", [seen])
                left = cursor.fetchall()
                if not left or time.monotonic() > ends_at:
                    break
        assert (left, len(set(seen[1:]))) == ([], 1)
        trace = rows["fail_in_loop"].errors[0]["trace"]
        assert trace.splitlines()[1].split(", ")[2] == "in fail_in_loop", trace

    def test_worker_reports_errors_of_the_start(self) -> None:
        """Wrong flags, a missing server and an old schema end the command with an error and a remedy."""
        with self.assertRaisesMessage(
            CommandError, "--queue must be pairs like 'default:100,mail:5', got 'mail'"
        ):
            call_command("millhand_worker", "--queue", "mail")
        with self.assertRaisesMessage(CommandError, "--soft-stop-timeout must be a duration"):
            call_command("millhand_worker", "--soft-stop-timeout", "soon")
        before = connection.settings_dict
        connection.settings_dict = {**before, "HOST": "127.0.0.1", "PORT": "1"}
        with self.assertRaisesMessage(CommandError, "database 'default' must accept connections, got "):
            call_command("millhand_worker", "--until-empty")
        with self.assertRaisesMessage(CommandError, "--soft-stop-timeout must be a duration"):
            call_command("millhand_worker", "--soft-stop-timeout", "")
        connection.settings_dict = before
        call_command("migrate", "millhand", "zero", verbosity=0)
        try:
            with self.assertRaisesMessage(CommandError, "; run: manage.py migrate millhand"):
                call_command("millhand_worker", "--until-empty")
        finally:
            call_command("migrate", "millhand", verbosity=0)
        assert client().insert(Confirm(1)).job.id == 1

    def test_worker_names_queues_that_a_flag_leaves_out(self) -> None:
        """As `millhand worker`, it warns of the queues of MILLHAND that are not worked, and of a typing error."""
        queues = {**settings.MILLHAND, "QUEUES": {"default": 10, "mail": 5}}
        with self.settings(MILLHAND=queues), self.assertLogs("millhand", "WARNING") as logs:
            call_command("millhand_worker", "--queue", "mial:5", "--until-empty")
            asyncio.set_event_loop(None)

        lines = [
            (one.msg, getattr(one, "left_out", None), getattr(one, "remedy", None)) for one in logs.records
        ]
        assert lines == [
            ("queues left out", "default,mail", None),
            ("queue unknown", None, "did you mean 'mail'?"),
        ]

    def test_other_databases_are_not_migrated(self) -> None:
        """Of several databases only the one that MILLHAND names is migrated, up and down."""
        other = SimpleNamespace(connection=SimpleNamespace(alias="other"))
        versions = Versions(above={"main": 8, "millhand": 1}, below={})
        versions.down(None, other)
        versions.up(None, other)

        assert client().insert(Confirm(1)).job.id > 0

    def test_models_and_migrations_agree(self) -> None:
        """`makemigrations` finds no changes."""
        out = io.StringIO()
        call_command("makemigrations", "--check", "--dry-run", stdout=out)

        assert out.getvalue() == "No changes detected\n"

    def test_url_has_django_s_connection_settings(self) -> None:
        """A worker's URL has libpq's options and the role, but not Django's own options."""
        wrapper = connection
        before = wrapper.settings_dict
        options = {
            "sslmode": "prefer",
            "assume_role": "some one",
            "server_side_binding": True,
            "options": "-c a.b=1",
        }
        wrapper.settings_dict = {**before, "PASSWORD": "p@ss/word", "OPTIONS": options}
        try:
            url = django_url("default")
        finally:
            wrapper.settings_dict = before

        assert f"dbname={before['NAME']}" in url
        assert "password=p%40ss%2Fword" in url
        assert "sslmode=prefer" in url
        assert "options=-c%20a.b%3D1%20-c%20role%3Dsome%5C%20one" in url
        assert "binding" not in url
        assert project_config().soft_stop_timeout is not None
