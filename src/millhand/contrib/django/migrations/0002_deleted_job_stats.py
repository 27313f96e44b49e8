"""Create our tables up to version 9."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from millhand.contrib.django.tables import lead_to


class Migration(migrations.Migration):
    """The numbers of jobs that are deleted when they complete."""

    atomic = False
    dependencies: ClassVar[list[tuple[str, str]]] = [("millhand", "0001_initial")]
    operations: ClassVar[list[object]] = [lead_to({"millhand": 9}, below={"millhand": 8})]
