"""Create our tables up to version 11."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from millhand.contrib.django.tables import lead_to


class Migration(migrations.Migration):
    """The schedules that are kept."""

    atomic = False
    dependencies: ClassVar[list[tuple[str, str]]] = [("millhand", "0003_limits")]
    operations: ClassVar[list[object]] = [lead_to({"millhand": 11}, below={"millhand": 10})]
