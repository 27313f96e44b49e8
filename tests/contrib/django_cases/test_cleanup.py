"""Claims about the built-in jobs of a project."""

from __future__ import annotations

import tempfile
from pathlib import Path

from django.conf import settings
from django.test import TransactionTestCase, override_settings

from django_cases.work_jobs import empty_tables, work
from millhand.contrib.django.apps import check_settings
from millhand.contrib.django.models import Job
from shop.models import Order


def completed_kinds() -> set[str]:
    return set(Job.objects.filter(state="completed").values_list("kind", flat=True))


class BuiltInCase(TransactionTestCase):
    def setUp(self) -> None:
        self.addCleanup(empty_tables)

    def test_built_in_jobs_run(self) -> None:
        """The heartbeat job runs, and the cleanup compares rows with stored files."""
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
            built_ins = {"HEARTBEAT_INTERVAL": "1m", "ORPHANS": orphans}
            with override_settings(MILLHAND={**settings.MILLHAND, **built_ins}):
                found = [error.msg for error in check_settings()]
                # Each worker inserts both again. One of them may fail on a busy machine.
                while completed_kinds() != {"heartbeat", "orphan_cleanup"}:
                    work()

        report = Job.objects.filter(kind="orphan_cleanup", state="completed")[0].metadata["output"]
        assert found == []
        assert (report["objects"], report["rows"], report["missing"]) == (2, 2, 1), report
