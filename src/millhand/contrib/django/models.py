"""
Jobs and queues as models, to be read: in queries, in reports, in the admin.

Django makes none of their tables and writes none of their rows. What is to be changed goes through `client()`, which
tells those who work; an UPDATE tells nobody, and may write what River's clients refuse to read.
"""

from __future__ import annotations

from typing import NoReturn

from django.db import models

from millhand.contrib.django.fields import RowArray
from millhand.contrib.django.setting import database_alias, schema_name
from millhand.errors import MillhandError
from millhand.job import JobState


class ReadOnlyRow(MillhandError):
    """A row of River's tables was to be written by a model."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"{model} must be changed by its client, got a write by its model; "
            "write millhand.contrib.django.client().jobs or .queues"
        )
        self.model = model


def table(name: str) -> str:
    """Return how Django is to call one of River's tables, in the schema that MILLHAND says."""
    schema = schema_name()
    return f'{schema}"."{name}' if schema else name


class ReadOnlyQuerySet(models.QuerySet):
    """Rows of the database that MILLHAND names."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise ReadOnlyRow(self.model.__name__)

    bulk_create = bulk_update = create = delete = update = _refuse


class ReadOnlyManager(models.Manager):
    """Reads from the database that MILLHAND names, unless another is said."""

    def get_queryset(self) -> ReadOnlyQuerySet:
        """Return all rows."""
        return ReadOnlyQuerySet(self.model, using=self._db or database_alias())


class ReadOnlyModel(models.Model):
    """A row that only its client may change."""

    objects = ReadOnlyManager()

    class Meta:
        """Django's word for what is said about a model."""

        abstract = True

    def save(self, *_: object, **__: object) -> NoReturn:
        """Refuse. Raises: ReadOnlyRow."""
        raise ReadOnlyRow(type(self).__name__)

    def delete(self, *_: object, **__: object) -> NoReturn:
        """Refuse. Raises: ReadOnlyRow."""
        raise ReadOnlyRow(type(self).__name__)


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
        """What Django is to know of the table."""

        db_table = table("river_job")
        managed = False

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class Queue(ReadOnlyModel):
    """One row of `river_queue`: a queue that somebody works, or did within a day."""

    name = models.CharField(max_length=128, primary_key=True)
    created_at = models.DateTimeField()
    metadata = models.JSONField()
    paused_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField()

    class Meta:
        """What Django is to know of the table."""

        db_table = table("river_queue")
        managed = False

    def __str__(self) -> str:
        return str(self.name)
