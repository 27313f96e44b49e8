"""Create our tables up to version 16."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from millhand.contrib.django.tables import lead_to


class Migration(migrations.Migration):
    """The notes of limits."""

    atomic = False
    dependencies: ClassVar[list[tuple[str, str]]] = [("millhand", "0008_archive")]
    operations: ClassVar[list[object]] = [lead_to({"millhand": 16}, below={"millhand": 15})]
