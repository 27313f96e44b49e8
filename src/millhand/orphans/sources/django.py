"""
The file fields of a Django project as reference sources: `OrphansConfig(sources=django_sources())`.

Every `FileField` and `ImageField` of every installed app is found by itself, the next app's too. What the column holds is
the whole name below the storage's own location, whatever `upload_to` made it of. Django must be set up: it is in its own
processes, elsewhere `django.setup()` does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from django.apps import apps
from django.core.exceptions import AppRegistryNotReady
from django.core.files.storage import FileSystemStorage, Storage, storages
from django.db import models, router

from millhand.errors import ConfigError
from millhand.orphans.config import ReferenceSource, source_name


def django_sources(
    *,
    storage: str | Callable[[Storage], bool] | None = None,
    using: str = "default",
    schema: str | None = None,
    min_rows: int | None = None,
) -> tuple[ReferenceSource, ...]:
    """
    Return a source for each file field: one column of one table, however many models share or inherit it.

    `storage` chooses the fields whose files are in the bucket: an alias of `STORAGES`, or a function of a storage. `using`
    is the database; models that its routers keep elsewhere are left out. `schema` is where the tables are, if the search
    path does not lead there. `min_rows=0` lets a column be empty, for fields that nobody has used yet.

    Raises: ConfigError, if there is no such field.
    """
    try:
        found = apps.get_models(include_auto_created=True)
    except AppRegistryNotReady as error:
        raise ConfigError(f"django must be set up, got {error}; call django.setup() first") from error
    fields = [field for model in found if _is_in(model, using) for field in _file_fields(model)]
    chosen = [field for field in fields if _is_chosen(field.storage, storage)]
    if not chosen:
        raise ConfigError(
            f"django must have a FileField with its files in the storage, got {len(fields)} FileFields and "
            f"none for storage {storage!r}; see INSTALLED_APPS and STORAGES"
        )
    sources = {(one.table, one.key): one for one in (_source(field, schema, min_rows) for field in chosen)}
    return tuple(sources.values())


def location_of(storage: Storage) -> str:
    """Return what a storage puts in front of the names in its fields; directories are none of it."""
    location = str(getattr(storage, "location", None) or "")
    if isinstance(storage, FileSystemStorage) or location.startswith("/"):
        return ""
    return f"{location.strip('/')}/" if location.strip("/") else ""


def _is_in(model: type[models.Model], using: str) -> bool:
    return not model._meta.proxy and bool(router.allow_migrate_model(using, model))  # noqa: SLF001 - documented


def _file_fields(model: type[models.Model]) -> Iterator[models.FileField]:
    # Of a model that inherits a table, its own fields; those of the parent are in the parent's table.
    for field in model._meta.local_fields:  # noqa: SLF001 - documented
        if isinstance(field, models.FileField):
            yield field


def _is_chosen(storage: Storage, wanted: str | Callable[[Storage], bool] | None) -> bool:
    if wanted is None:
        return True
    return bool(storage == storages[wanted] if isinstance(wanted, str) else wanted(storage))


def _source(field: models.FileField, schema: str | None, min_rows: int | None) -> ReferenceSource:
    meta = field.model._meta  # noqa: SLF001 - documented
    return ReferenceSource(
        name=source_name(f"{meta.label_lower}.{field.name}"),
        table=_table(meta.db_table, schema, meta.label),
        key=field.column,
        id=meta.pk.column or "id",  # a primary key of several columns has none
        prepend=location_of(field.storage),
        min_rows=min_rows,
    )


def _table(db_table: str, schema: str | None, label: str) -> str:
    # `schema"."table` is how Django is brought to look elsewhere.
    parts = db_table.strip('"').split('"."')
    if any("." in part for part in [*parts, schema or ""]):
        raise ConfigError(
            f"db_table of {label} must have no dot in a name, got {db_table!r}; declare a select for it"
        )
    return ".".join([schema, *parts] if schema and len(parts) == 1 else parts)
