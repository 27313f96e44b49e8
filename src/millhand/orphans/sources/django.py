"""
Declare the file fields of a Django project as reference sources: `OrphansConfig(sources=django_sources())`.

It finds every `FileField` and `ImageField` of all installed apps. A column holds the name below the storage's location,
whatever `upload_to` returned. Django must be set up: outside its own processes, call `django.setup()` first.
"""

from __future__ import annotations

from collections.abc import Callable

from django.apps import apps
from django.core.exceptions import AppRegistryNotReady
from django.core.files.storage import FileSystemStorage, Storage, storages
from django.db import models, router

from millhand.core.errors import ConfigError
from millhand.core.orphans import ReferenceSource, source_name


def django_sources(
    *,
    storage: str | Callable[[Storage], bool] | None = None,
    using: str = "default",
    schema: str | None = None,
    min_rows: int | None = None,
) -> tuple[ReferenceSource, ...]:
    """
    Return a source for each file field: one column of one table, however many models share or inherit it.

    `storage` selects the fields with files in the bucket: an alias of `STORAGES`, or a predicate on a storage. `using` is
    the database; models that a router keeps in another one are left out. `schema` is the schema of the tables, if the
    search path lacks it. `min_rows=0` lets a column be empty, for new fields.
    Raises: ConfigError, if no field matches.
    """
    try:
        found = apps.get_models(include_auto_created=True)
    except AppRegistryNotReady as error:
        raise ConfigError(f"django must be set up, got {error}; call django.setup() first") from error
    fields = [field for model in found if _is_in_database(model, using) for field in _file_fields(model)]
    selected = [field for field in fields if _is_selected(field.storage, storage)]
    if not selected:
        raise ConfigError(
            f"django must have a FileField with its files in the storage, got {len(fields)} FileFields and "
            f"none for storage {storage!r}; check INSTALLED_APPS and STORAGES"
        )
    sources = {(one.table, one.key): one for one in (_source(field, schema, min_rows) for field in selected)}
    return tuple(sources.values())


def location_of(storage: Storage) -> str:
    """Return the prefix that a storage puts before the names of its files; empty for a directory."""
    location = str(getattr(storage, "location", None) or "")
    if isinstance(storage, FileSystemStorage) or location.startswith("/"):
        return ""
    return f"{location.strip('/')}/" if location.strip("/") else ""


def _is_in_database(model: type[models.Model], using: str) -> bool:
    return not model._meta.proxy and bool(router.allow_migrate_model(using, model))  # noqa: SLF001 - documented


def _file_fields(model: type[models.Model]) -> list[models.FileField]:
    # With multi-table inheritance, the fields of the parent are in the parent's table.
    return [one for one in model._meta.local_fields if isinstance(one, models.FileField)]  # noqa: SLF001 - documented


def _is_selected(storage: Storage, wanted: str | Callable[[Storage], bool] | None) -> bool:
    if wanted is None:
        return True
    return bool(storage == storages[wanted] if isinstance(wanted, str) else wanted(storage))


def _source(field: models.FileField, schema: str | None, min_rows: int | None) -> ReferenceSource:
    meta = field.model._meta  # noqa: SLF001 - documented
    # `schema"."table` is how Django projects name a table in another schema.
    parts = meta.db_table.strip('"').split('"."')
    if any("." in part for part in [*parts, schema or ""]):
        raise ConfigError(
            f"db_table of {meta.label} must have no dot in a name, got {meta.db_table!r}; declare a select for it"
        )
    return ReferenceSource(
        name=source_name(f"{meta.label_lower}.{field.name}"),
        table=".".join([schema, *parts] if schema and len(parts) == 1 else parts),
        key=field.column,
        id=meta.pk.column or "id",  # a primary key of several columns has none
        prepend=location_of(field.storage),
        min_rows=min_rows,
    )
