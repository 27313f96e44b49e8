"""Create our tables up to version 14."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from millhand.contrib.django.tables import lead_to


class Migration(migrations.Migration):
    """The limits that halt."""

    atomic = False
    dependencies: ClassVar[list[tuple[str, str]]] = [("millhand", "0006_dead_jobs")]
    operations: ClassVar[list[object]] = [lead_to({"millhand": 14}, below={"millhand": 13})]
