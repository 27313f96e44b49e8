"""Models of a shop: inherited, in tables of other names and schemas, with files in three storages."""

from __future__ import annotations

from django.core.files.storage import storages
from django.db import models


def by_owner(instance: models.Model, filename: str) -> str:
    """Name a file by its owner: an `upload_to` function."""
    return f"owners/{instance.pk}/{filename}"


class Photographed(models.Model):
    """An abstract model with a picture."""

    picture = models.ImageField(upload_to="pictures/%Y/%m/", blank=True)

    class Meta:
        abstract = True


class Place(Photographed):
    """A table with an inherited field, and one in another storage."""

    menu = models.FileField(upload_to=by_owner, storage=storages["documents"], null=True)
    name = models.CharField(max_length=100)


class Restaurant(Place):
    """A table that inherits its parent's fields and adds a logo."""

    logo = models.FileField(upload_to="logos", db_column="logo_file", db_index=True)


class Diner(Restaurant):
    """A proxy model without fields of its own."""

    class Meta:
        proxy = True


class Scan(models.Model):
    """A table with its own name and a text key, and files on the local disk."""

    code = models.CharField(max_length=20, primary_key=True)
    page = models.FileField(storage=storages["local"])

    class Meta:
        db_table = "legacy_scans"


class Archived(models.Model):
    """A table in another schema, as Django projects name it."""

    file = models.FileField()

    class Meta:
        db_table = 'archive"."files'


class Remote(models.Model):
    """A table in another database."""

    file = models.FileField()


class RemoteRouter:
    """Keeps `Remote` in the database `remote`, and all else in `default`."""

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **hints: object) -> bool:
        return (db == "remote") == (model_name == "remote")
