"""Create our tables up to version 15."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from millhand.contrib.django.tables import lead_to


class Migration(migrations.Migration):
    """The archive."""

    atomic = False
    dependencies: ClassVar[list[tuple[str, str]]] = [("millhand", "0007_halts")]
    operations: ClassVar[list[object]] = [lead_to({"millhand": 15}, below={"millhand": 14})]
