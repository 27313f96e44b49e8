"""Create River's tables, up to version 8, and ours, up to version 8; and the state of the two models."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models

from millhand.contrib.django.models import RowArray, table
from millhand.contrib.django.tables import lead_to
from millhand.core.job import JobState


class Migration(migrations.Migration):
    """The first migration; see `tables`."""

    atomic = False
    dependencies: ClassVar[list[tuple[str, str]]] = []
    initial = True
    operations: ClassVar[list[object]] = [
        lead_to({"main": 8, "millhand": 8}),
        migrations.CreateModel(
            name="Job",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "state",
                    models.CharField(max_length=16, choices=[(one.value, one.value) for one in JobState]),
                ),
                ("attempt", models.SmallIntegerField()),
                ("max_attempts", models.SmallIntegerField()),
                ("attempted_at", models.DateTimeField(null=True)),
                ("created_at", models.DateTimeField()),
                ("finalized_at", models.DateTimeField(null=True)),
                ("scheduled_at", models.DateTimeField()),
                ("priority", models.SmallIntegerField()),
                ("args", models.JSONField()),
                ("attempted_by", RowArray(base_field=models.TextField(), null=True, size=None)),
                ("errors", RowArray(base_field=models.JSONField(), null=True, size=None)),
                ("kind", models.CharField(max_length=128)),
                ("metadata", models.JSONField()),
                ("queue", models.CharField(max_length=128)),
                ("tags", RowArray(base_field=models.CharField(max_length=255), size=None)),
                ("unique_key", models.BinaryField(null=True)),
            ],
            options={"db_table": table("river_job"), "managed": False},
        ),
        migrations.CreateModel(
            name="Queue",
            fields=[
                ("name", models.CharField(max_length=128, primary_key=True, serialize=False)),
                ("created_at", models.DateTimeField()),
                ("metadata", models.JSONField()),
                ("paused_at", models.DateTimeField(null=True)),
                ("updated_at", models.DateTimeField()),
            ],
            options={"db_table": table("river_queue"), "managed": False},
        ),
    ]
