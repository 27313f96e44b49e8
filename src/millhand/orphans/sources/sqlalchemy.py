"""
Declare columns of SQLAlchemy models as reference sources: `OrphansConfig(sources=sqlalchemy_sources(Base))`.

It finds a column by a mark, `mapped_column(info={"millhand": True})`, by its type, or by its name. The mark may hold fields
of a `ReferenceSource`: `info={"millhand": {"url": ["https://cdn.example.com/"]}}`. Columns of sqlalchemy-file need no mark.
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

from millhand.core.errors import ConfigError
from millhand.core.orphans import ReferenceSource, source_name

MARK = "millhand"


class HasMetadata(Protocol):
    """A declarative base, a registry, or another object with tables in `metadata`."""

    @property
    def metadata(self) -> MetaData:
        """The tables."""
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

    Name a column as `User.avatar` or `"users.avatar"`. `storage` selects one storage of sqlalchemy-file. `min_rows=0` lets
    a column be empty.
    Raises: ConfigError, if no column matches.
    """
    metadata = base if isinstance(base, MetaData) else base.metadata
    known = {
        f"{table.fullname}.{column.name}": column for table in metadata.tables.values() for column in table.c
    }
    named = {_name(column, known) for column in columns}
    sources = tuple(
        ReferenceSource(**_fields(name, column, min_rows, mark))
        for name, column in known.items()
        if (mark := _mark(column, name in named, tuple(types), storage)) is not None
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


def _mark(
    column: Column[Any], is_named: bool, types: tuple[type[TypeEngine[Any]], ...], storage: str | None
) -> Mapping[str, Any] | None:
    """Return the marked fields of a column that names objects; None for another column."""
    mark = column.info.get(MARK)
    if mark is False:
        return None
    fields = mark if isinstance(mark, Mapping) else {}
    if any(
        one.__module__.partition(".")[0] == "sqlalchemy_file" and one.__name__ == "FileField"
        for one in type(column.type).__mro__
    ):
        own = _upload_storage(column)
        return None if storage not in (None, own) else {**_file_field(own), **fields}
    return fields if mark or is_named or isinstance(column.type, types) else None


def _fields(name: str, column: Column[Any], min_rows: int | None, mark: Mapping[str, Any]) -> dict[str, Any]:
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
    marked = {key: tuple(value) if isinstance(value, list) else value for key, value in mark.items()}
    known = {field.name for field in dataclasses.fields(ReferenceSource)}
    if unknown := sorted(set(marked) - known):
        raise ConfigError(
            f"the mark of column {name!r} must be True or fields of a source, got {unknown[0]!r}; "
            f"known: {', '.join(sorted(known))}"
        )
    return found | marked


def _upload_storage(column: Column[Any]) -> str:
    if storage := getattr(column.type, "upload_storage", None):
        return str(storage)
    try:
        return str(import_module("sqlalchemy_file.storage").StorageManager.get_default())
    except RuntimeError as error:
        raise ConfigError(
            f"column {column.name!r} must have an upload_storage, got none and no default; "
            "add the storages to sqlalchemy-file's StorageManager first"
        ) from error


def _file_field(storage: str) -> dict[str, Any]:
    """Return the fields for sqlalchemy-file: it stores a list of `storage/name`, the file and its derived files."""
    begins = json.dumps(f"{storage}/")
    return {"json": f"$.files[*] ? (@ starts with {begins})", "url": (f"{storage}/",)}
