from __future__ import annotations

import io
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings
from shop import jobs as shop_jobs
from shop.jobs import Confirm
from shop.models import Order

from django_cases.jobs import FailInLoop, SeeLoop, SeeThread
from django_cases.room import empty_tables, work
from millhand import InsertOpts, UnknownKind, Workers
from millhand.contrib.django import client
from millhand.contrib.django.discovery import whole_config
from millhand.contrib.django.models import Job, ReadOnlyRow
from millhand.contrib.django.setting import project_config
from millhand.contrib.django.system_check import check_settings
from millhand.contrib.django.tables import Versions
from millhand.driver.django_url import django_url


class ProjectCase(SimpleTestCase):
    def test_workers_and_periodic_jobs_are_found(self) -> None:
        """Each app's jobs.py is found, Django's tasks are worked beside them, and a kind of two apps is an error."""
        config = whole_config()
        shop_jobs.others = Workers()  # type: ignore[attr-defined]  # for this test
        shop_jobs.others.add(kind="see_thread")(lambda: None)  # type: ignore[attr-defined]
        twice = check_settings()
        del shop_jobs.others  # type: ignore[attr-defined]

        assert set(config.workers.kinds) == {
            "confirm_order",
            "count_open",
            "django_async_task",
            "django_task",
            "fail_in_loop",
            "see_loop",
            "see_thread",
        }
        assert [job.id for job in config.periodic_jobs] == ["count_open"]
        assert [error.id for error in twice] == ["millhand.E001"]
        assert "kind must be registered once, got 'see_thread'" in twice[0].msg

    def test_check_tells_of_settings_and_database(self) -> None:
        """`manage.py check` says what is wrong with MILLHAND, in the words of the error, and which database cannot be."""
        with override_settings(MILLHAND={"QEUES": {}}):
            unknown = check_settings()
        with override_settings(MILLHAND={"QUEUES": {"default": 0}}):
            refused = check_settings()

        impossible = {}
        for what, said in {
            "heartbeat": {"HEARTBEAT": "often"},
            "orphans": {"ORPHANS": {"config": "os.sep"}},
        }.items():
            with override_settings(MILLHAND=said):
                impossible[what] = check_settings()[0].msg
        wrong = {"config": "os.sep", "storage": "file:x"}
        with override_settings(MILLHAND={"ORPHANS": wrong}):
            impossible["config"] = check_settings()[0].msg

        assert impossible["heartbeat"].startswith("MILLHAND['HEARTBEAT'] must be a duration such as '500ms'")
        assert impossible["orphans"] == "MILLHAND['ORPHANS'] must have a 'storage', got none"
        assert impossible["config"] == "MILLHAND['ORPHANS'].config must lead to an OrphansConfig, got str"
        assert [error.msg for error in unknown] == ["MILLHAND has no setting 'QEUES'; did you mean 'QUEUES'?"]
        assert ["max_workers must be between 1 and 10,000, got 0" in error.msg for error in refused] == [True]
        assert check_settings() == []


class RowsCase(TestCase):
    def test_client_is_the_project_s(self) -> None:
        """There is one client, with the project's hooks and workers, and another after the settings have changed."""
        job = client().insert(Confirm(1)).job
        with pytest.raises(UnknownKind), transaction.atomic():
            client().insert(type("Unknown", (Confirm,), {"kind": "unknown_kind"})(1))
        same = client() is client()
        with override_settings(MILLHAND={**settings.MILLHAND, "MAX_ATTEMPTS": 2}):
            other = client().insert(Confirm(1)).job

        assert (job.tags, job.queue, same) == (("stamped",), "mail", True)
        assert (job.max_attempts, other.max_attempts) == (25, 2)

    def test_rows_are_read_and_not_written(self) -> None:
        """A model reads every column, and refuses to write, one row or many."""
        row = client().insert(Confirm(7), InsertOpts(tags=["abc"], metadata={"a": [1]})).job
        job = Job.objects.get(args__order_id=7)

        assert (job.pk, job.state, job.tags, job.metadata) == (
            row.id,
            "available",
            ["abc", "stamped"],
            {"a": [1]},
        )
        assert (job.created_at, job.scheduled_at, job.errors) == (row.created_at, row.scheduled_at, None)
        for write in (job.save, job.delete, Job.objects.all().delete, lambda: Job.objects.update(state="x")):
            with pytest.raises(ReadOnlyRow):
                write()


class CommandCase(TransactionTestCase):
    def setUp(self) -> None:
        self.addCleanup(empty_tables)

    def test_jobs_leave_no_connection_behind(self) -> None:
        """The ORM's connections end with their job, in a thread and on the loop; a coroutine has one for all it says."""
        client().insert_many([SeeThread(), SeeLoop(), FailInLoop()])
        work()

        rows = {job.kind: job for job in Job.objects.all()}
        seen = [rows["see_thread"].metadata["output"], *rows["see_loop"].metadata["output"]]
        with connection.cursor() as cursor:
            cursor.execute("SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)", [seen])
            left = cursor.fetchall()
        assert (left, len(set(seen[1:]))) == ([], 1)
        trace = rows["fail_in_loop"].errors[0]["trace"]
        assert trace.splitlines()[1].split(", ")[2] == "in fail_in_loop", trace

    def test_built_in_jobs_run_beside_those_of_the_apps(self) -> None:
        """The heartbeat beats, and the cleanup compares the files that rows name with those in the storage."""
        for key in ("a.png", "b.png"):
            Order.objects.create(customer=key)
        self.addCleanup(Order.objects.all().delete)
        with tempfile.TemporaryDirectory() as directory:
            for name in ("a.png", "c.png"):
                (Path(directory) / name).write_text(name)
            orphans = {
                "config": "django_cases.jobs.orphans",
                "storage": f"file:{directory}",
                "interval": "1h",
            }
            built_ins = {"HEARTBEAT": "1m", "ORPHANS": orphans}
            with override_settings(MILLHAND={**settings.MILLHAND, **built_ins}):
                found = [error.msg for error in check_settings()]
                while (
                    Job.objects.filter(kind__in=["heartbeat", "orphan_cleanup"], state="completed").count()
                    < 2
                ):
                    work()

        report = Job.objects.get(kind="orphan_cleanup").metadata["output"]
        assert found == []
        assert (report["objects"], report["rows"], report["missing"]) == (2, 2, 1), report

    def test_worker_says_what_is_wrong(self) -> None:
        """What keeps a worker from starting ends the command with its remedy: flags, no server, a schema not migrated."""
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
        connection.settings_dict = before
        call_command("migrate", "millhand", "zero", verbosity=0)
        try:
            with self.assertRaisesMessage(CommandError, "; run: manage.py migrate millhand"):
                call_command("millhand_worker", "--until-empty")
        finally:
            call_command("migrate", "millhand", verbosity=0)
        assert client().insert(Confirm(1)).job.id == 1

    def test_other_databases_are_left_alone(self) -> None:
        """Where a project has several databases, only the one that MILLHAND names is migrated, up and down."""
        other = SimpleNamespace(connection=SimpleNamespace(alias="other"))
        versions = Versions(above={"main": 8, "millhand": 1}, below={})
        versions.down(None, other)
        versions.up(None, other)

        assert client().insert(Confirm(1)).job.id > 0

    def test_models_and_migrations_agree(self) -> None:
        """`makemigrations` finds nothing to add."""
        out = io.StringIO()
        call_command("makemigrations", "--check", "--dry-run", stdout=out)

        assert out.getvalue() == "No changes detected\n"

    def test_url_leads_where_django_s_connections_lead(self) -> None:
        """Options that libpq knows are in a worker's URL, a role as an option, and what is Django's own is not."""
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
