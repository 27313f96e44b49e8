"""Claims about the workers and settings of a project."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.test import SimpleTestCase, modify_settings, override_settings

from millhand import ConfigError, JobSchedule, Workers
from millhand.contrib.django import client
from millhand.contrib.django.apps import check_settings
from millhand.contrib.django.discovery import whole_config
from shop import jobs as shop_jobs


class DiscoveryCase(SimpleTestCase):
    def test_workers_and_periodic_jobs_are_found(self) -> None:
        """Each app's jobs.py with its schedules, and Django's tasks, are found, and a kind of two apps is an error."""
        config = whole_config()
        shop_jobs.others = Workers()  # type: ignore[attr-defined]  # for this test
        shop_jobs.others.add(kind="see_thread")(lambda: None)  # type: ignore[attr-defined]
        twice = check_settings()
        del shop_jobs.others  # type: ignore[attr-defined]
        yearly = JobSchedule(id="yearly", args=shop_jobs.count_open.args(), cron="@yearly")
        shop_jobs.schedules = [yearly]  # type: ignore[attr-defined]
        schedules = whole_config().schedules
        del shop_jobs.schedules  # type: ignore[attr-defined]

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
        assert (config.schedules, schedules) == ((), (yearly,))
        assert [error.id for error in twice] == ["millhand.E001"]
        assert "kind must be registered once, got 'see_thread'" in twice[0].msg

    def test_client_that_is_called_while_jobs_are_imported_is_an_error(self) -> None:
        """It neither hangs nor makes a client without some of the workers, whichever call imports the module."""
        words = r"^django_cases\.early\.jobs must be imported before .*; call client\(\) in a function$"
        with modify_settings(INSTALLED_APPS={"append": "django_cases.early"}):
            for call in (client, lambda: import_module("django_cases.early.jobs")):
                with pytest.raises(ConfigError, match=words):
                    call()
        assert "see_thread" in client().config.workers

    def test_check_reports_settings_and_database(self) -> None:
        """`manage.py check` reports the errors of MILLHAND and of the database."""
        with override_settings(MILLHAND={"QEUES": {}}):
            unknown = check_settings()
        with override_settings(MILLHAND={"QUEUES": {"default": 0}}):
            refused = check_settings()

        impossible = {}
        for what, said in {
            "heartbeat": {"HEARTBEAT_INTERVAL": "often"},
            "orphans": {"ORPHANS": {"config": "os.sep"}},
        }.items():
            with override_settings(MILLHAND=said):
                impossible[what] = check_settings()[0].msg
        wrong = {"config": "os.sep", "storage": "file:x"}
        with override_settings(MILLHAND={"ORPHANS": wrong}):
            impossible["config"] = check_settings()[0].msg

        assert impossible["heartbeat"].startswith(
            "MILLHAND['HEARTBEAT_INTERVAL'] must be a duration such as '500ms'"
        )
        assert impossible["orphans"] == "MILLHAND['ORPHANS'] must have a 'storage', got none"
        assert impossible["config"] == "MILLHAND['ORPHANS'].config must name an OrphansConfig, got str"
        assert [error.msg for error in unknown] == ["MILLHAND has no setting 'QEUES'; did you mean 'QUEUES'?"]
        assert ["max_workers must be between 1 and 10,000, got 0" in error.msg for error in refused] == [True]
        assert check_settings() == []
