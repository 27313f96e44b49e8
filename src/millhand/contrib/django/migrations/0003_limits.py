"""Create our tables up to version 10."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from millhand.contrib.django.tables import lead_to


class Migration(migrations.Migration):
    """The limits of queues."""

    atomic = False
    dependencies: ClassVar[list[tuple[str, str]]] = [("millhand", "0002_deleted_job_stats")]
    operations: ClassVar[list[object]] = [lead_to({"millhand": 10}, below={"millhand": 9})]
