"""
Columns of SQLAlchemy models as reference sources: `OrphansConfig(sources=sqlalchemy_sources(Base))`.

A column is found by a mark, `mapped_column(info={"millhand": True})`, by its type, or because it is named. The mark may
say more, as fields of a `ReferenceSource`: `info={"millhand": {"url": ["https://cdn.example.com/"]}}`. The columns of
sqlalchemy-file are known by themselves.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any, Protocol

from sqlalchemy import ARRAY, Column, MetaData, Table
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

from millhand.errors import ConfigError
from millhand.orphans.config import ReferenceSource, source_name

MARK = "millhand"


class HasMetadata(Protocol):
    """A declarative base, a registry, or whatever else has its tables in `metadata`."""

    @property
    def metadata(self) -> MetaData:
        """Where the tables are."""
        ...


def sqlalchemy_sources(
    base: HasMetadata | MetaData,
    *,
    columns: Collection[str | Column[Any] | InstrumentedAttribute[Any]] = (),
    types: Collection[type[TypeEngine[Any]]] = (),
    storage: str | None = None,
    min_rows: int | None = None,
) -> tuple[ReferenceSource, ...]:
    """
    Return a source for each column that is marked, of one of `types`, named in `columns`, or of sqlalchemy-file.

    A column is named as `User.avatar`, or `"users.avatar"`. Of sqlalchemy-file, `storage` leaves those in other storages
    out. `min_rows=0` lets a column be empty.

    Raises: ConfigError, if there is no such column.
    """
    metadata = base if isinstance(base, MetaData) else base.metadata
    known = {
        f"{table.fullname}.{column.name}": column for table in metadata.tables.values() for column in table.c
    }
    wanted = {_name(column, known) for column in columns}
    sources = tuple(
        ReferenceSource(**_fields(name, column, min_rows, told))
        for name, column in known.items()
        if (told := _told(column, name in wanted, tuple(types), storage)) is not None
    )
    if not sources:
        raise ConfigError(
            f"the models must have a column that names objects, got {len(known)} columns and none of them marked; "
            'mark it: mapped_column(info={"millhand": True})'
        )
    return sources


def _name(column: str | Column[Any] | InstrumentedAttribute[Any], known: Collection[str]) -> str:
    if isinstance(column, InstrumentedAttribute):
        column = column.property.columns[0]
    name = column if isinstance(column, str) else f"{column.table.fullname}.{column.name}"
    if name not in known:
        raise ConfigError(f"columns must name columns of the models as table.column, got {name!r}")
    return name


def _told(
    column: Column[Any], is_wanted: bool, types: tuple[type[TypeEngine[Any]], ...], storage: str | None
) -> Mapping[str, Any] | None:
    """Return what is said of a column that names objects, None of another."""
    mark = column.info.get(MARK)
    if mark is False:
        return None
    said = mark if isinstance(mark, Mapping) else {}
    if _is_sqlalchemy_file(column.type):
        own = _upload_storage(column)
        return None if storage not in (None, own) else {**_files_of(own), **said}
    return said if mark or is_wanted or isinstance(column.type, types) else None


def _fields(name: str, column: Column[Any], min_rows: int | None, told: Mapping[str, Any]) -> dict[str, Any]:
    table = column.table
    ids = [one.name for one in table.primary_key.columns] if isinstance(table, Table) else []
    found = {
        "array": isinstance(column.type, ARRAY),
        "id": ids[0] if len(ids) == 1 else "id",
        "key": column.name,
        "min_rows": min_rows,
        "name": source_name(name),
        "table": name.removesuffix(f".{column.name}"),
    }
    said = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
    known = {field.name for field in dataclasses.fields(ReferenceSource)}
    if unknown := sorted(set(said) - known):
        raise ConfigError(
            f"the mark of column {name!r} must be True or fields of a source, got {unknown[0]!r}; "
            f"known: {', '.join(sorted(known))}"
        )
    return found | said


def _is_sqlalchemy_file(type_: TypeEngine[Any]) -> bool:
    return any(
        one.__module__.partition(".")[0] == "sqlalchemy_file" and one.__name__ == "FileField"
        for one in type(type_).__mro__
    )


def _upload_storage(column: Column[Any]) -> str:
    if named := getattr(column.type, "upload_storage", None):
        return str(named)
    try:
        return str(import_module("sqlalchemy_file.storage").StorageManager.get_default())
    except RuntimeError as error:
        raise ConfigError(
            f"column {column.name!r} must have an upload_storage, got none and no default; "
            "add the storages to sqlalchemy-file's StorageManager first"
        ) from error


def _files_of(storage: str) -> dict[str, Any]:
    """Return how sqlalchemy-file names objects: as `storage/name`, in a list of the file and all made of it."""
    begins = json.dumps(f"{storage}/")
    return {"json": f"$.files[*] ? (@ starts with {begins})", "url": (f"{storage}/",)}
