"""
Read-only models of jobs and queues, for queries, reports and the admin.

Django neither creates the tables nor writes the rows. Change jobs through `client()`, which notifies the workers; an
UPDATE does not, and may write values that River's clients cannot read.
"""

from __future__ import annotations

from typing import NoReturn

from django.contrib.postgres.fields import ArrayField
from django.core.checks import CheckMessage
from django.db import models

from millhand.contrib.django.setting import database_alias, schema_name
from millhand.core.errors import MillhandError
from millhand.core.job import JobState

NEEDS_APP = "postgres.E005"


class RowArray(ArrayField):
    """An array that works without `django.contrib.postgres` in INSTALLED_APPS, which only forms and writes need."""

    def check(self, **options: object) -> list[CheckMessage]:
        return [message for message in super().check(**options) if message.id != NEEDS_APP]


class ReadOnlyRow(MillhandError):
    """A model tried to write a row of River's tables."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"{model} must be changed by the client, got a write by the model; "
            "use millhand.contrib.django.client().jobs or .queues"
        )
        self.model = model


def table(name: str) -> str:
    schema = schema_name()
    return f'{schema}"."{name}' if schema else name


class ReadOnlyQuerySet(models.QuerySet):
    """A query set that refuses writes."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise ReadOnlyRow(self.model.__name__)

    bulk_create = bulk_update = create = delete = update = _refuse


class ReadOnlyManager(models.Manager):
    """Reads from the database that MILLHAND names, unless `using` names another."""

    def get_queryset(self) -> ReadOnlyQuerySet:
        return ReadOnlyQuerySet(self.model, using=self._db or database_alias())


class ReadOnlyModel(models.Model):
    """A row that only the client may change."""

    objects = ReadOnlyManager()

    class Meta:
        """Options of the model."""

        abstract = True

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise ReadOnlyRow(type(self).__name__)

    save = delete = _refuse


class Job(ReadOnlyModel):
    """One row of `river_job`."""

    id = models.BigAutoField(primary_key=True)
    state = models.CharField(max_length=16, choices=[(state.value, state.value) for state in JobState])
    attempt = models.SmallIntegerField()
    max_attempts = models.SmallIntegerField()
    attempted_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField()
    finalized_at = models.DateTimeField(null=True)
    scheduled_at = models.DateTimeField()
    priority = models.SmallIntegerField()
    args = models.JSONField()
    attempted_by = RowArray(models.TextField(), null=True)
    errors = RowArray(models.JSONField(), null=True)
    kind = models.CharField(max_length=128)
    metadata = models.JSONField()
    queue = models.CharField(max_length=128)
    tags = RowArray(models.CharField(max_length=255))
    unique_key = models.BinaryField(null=True)

    class Meta:
        """Options of the model."""

        db_table = table("river_job")
        managed = False

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class Queue(ReadOnlyModel):
    """One row of `river_queue`: a queue that a client worked within the last day."""

    name = models.CharField(max_length=128, primary_key=True)
    created_at = models.DateTimeField()
    metadata = models.JSONField()
    paused_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField()

    class Meta:
        """Options of the model."""

        db_table = table("river_queue")
        managed = False

    def __str__(self) -> str:
        return str(self.name)
