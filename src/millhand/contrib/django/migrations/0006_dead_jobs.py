"""Create our tables up to version 13."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations

from millhand.contrib.django.tables import lead_to


class Migration(migrations.Migration):
    """The dead letters."""

    atomic = False
    dependencies: ClassVar[list[tuple[str, str]]] = [("millhand", "0005_flows")]
    operations: ClassVar[list[object]] = [lead_to({"millhand": 13}, below={"millhand": 12})]
