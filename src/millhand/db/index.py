"""Statements for indexes, and for a table's storage parameters, whose names and values are Millhand's, never a user's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from millhand.core.errors import ConfigError
from millhand.db.query import Query, Row, parse_none

# River's indexes that only searches by @> read, and the column of each. An operator may drop them.
SEARCH_INDEXES: Mapping[str, str] = MappingProxyType(
    {"river_job_args_index": "args", "river_job_metadata_index": "metadata"}
)

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,62}")


class SearchIndex(msgspec.Struct, frozen=True):
    """
    A search index, or what has its name.

    `is_rivers` says that it is as River's migration defines it. `used_by` is the session that builds or drops it now.
    `others` are the names of what interrupted rebuilds have left.
    """

    name: str
    column: str
    owner: str
    role: str
    is_owner: bool
    may_create: bool
    is_there: bool
    is_rivers: bool
    is_valid: bool
    used_by: int | None
    num_bytes: int
    others: tuple[str, ...]


def checked_index_name(name: str) -> str:
    """Return `name` if it is a valid index name. Raises: ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"index name must be letters, digits and underscores, at most 63, not a digit first, got {name!r}"
        )
    return name


def index_get_names(name: str) -> Query[list[str]]:
    """Return the names of the schema's indexes that begin with `name`: the index, and leftovers of its rebuilds."""
    return Query("index_get_names", {"prefix": name}, lambda rows: [row[0] for row in rows])


def artifact_names(name: str, names: Sequence[str]) -> list[str]:
    """Return those of `names` that an interrupted rebuild of the index `name` has left."""
    artifact = re.compile(re.escape(name) + r"_cc(?:new|old)[0-9]*")
    return [found for found in names if artifact.fullmatch(found)]


def index_reindex(name: str) -> Query[None]:
    """
    Rebuild an index while the table is read and written.

    Concurrency: not in a transaction. An interrupted rebuild leaves an index; see `artifact_names`.
    """
    return Query("index_reindex", {}, parse_none, fragments=_quoted(name))


def index_drop(name: str) -> Query[None]:
    """Drop an index if it exists. Concurrency: not in a transaction. Readers and writers of the table do not wait for it."""
    return Query("index_drop", {}, parse_none, fragments=_quoted(name))


def index_get_searches() -> Query[list[SearchIndex]]:
    """Return River's search indexes, missing ones too; nothing without a job table."""

    def parse(row: Row) -> SearchIndex:
        values = dict(zip(SearchIndex.__struct_fields__, row, strict=True))
        return SearchIndex(**{**values, "others": tuple(artifact_names(row[0], row[-1]))})

    params = {"names": list(SEARCH_INDEXES), "columns": list(SEARCH_INDEXES.values())}
    return Query("index_get_searches", params, lambda rows: [parse(row) for row in rows])


def index_create_search(name: str) -> Query[None]:
    """
    Build a search index while the table is read and written.

    Concurrency: not in a transaction. It waits for transactions that are open. An interrupted build leaves an invalid index.
    """
    fragments = (*_quoted(name), ("column", SEARCH_INDEXES[name]))
    return Query("index_create_search", {}, parse_none, fragments=fragments)


def index_get_columns() -> Query[frozenset[str]]:
    """Return which columns of jobs have an index for searches by @>."""
    return Query("index_get_columns", {}, lambda rows: frozenset(row[0] for row in rows))


def _quoted(name: str) -> tuple[tuple[str, str], ...]:
    return (("index", f'"{checked_index_name(name)}"'),)


def table_get_options(table: str) -> Query[dict[str, str] | None]:
    """Return a table's own storage parameters; None if there is no such table."""

    def parse(rows: Sequence[Row]) -> dict[str, str] | None:
        if not rows:
            return None
        pairs = (option.partition("=") for option in rows[0][0])
        return {name: value for name, _, value in pairs}

    return Query("table_get_options", {}, parse, fragments=(("table", table),))


def table_set_options(table: str, options: Mapping[str, str]) -> Query[None]:
    """
    Set storage parameters of a table; others keep their values.

    Concurrency: waits only for a VACUUM or a rebuild of the table's indexes.
    """
    settings = ", ".join(f"{name} = {value}" for name, value in options.items())
    return Query("table_set_options", {}, parse_none, fragments=(("table", table), ("options", settings)))


def table_reset_options(table: str, names: Sequence[str]) -> Query[None]:
    """Reset storage parameters of a table to the server's. Concurrency: as `table_set_options`."""
    return Query(
        "table_reset_options", {}, parse_none, fragments=(("table", table), ("options", ", ".join(names)))
    )
