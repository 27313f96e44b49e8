"""Create our tables up to version 12."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from millhand.contrib.django.tables import lead_to


class Migration(migrations.Migration):
    """The jobs that wait for jobs."""

    atomic = False
    dependencies: ClassVar[list[tuple[str, str]]] = [("millhand", "0004_schedules")]
    operations: ClassVar[list[object]] = [lead_to({"millhand": 12}, below={"millhand": 11})]
