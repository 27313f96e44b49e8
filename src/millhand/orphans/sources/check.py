"""Check a declared source against the catalog: its table exists and its columns have the declared form."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from millhand.driver.protocol import Executor
from millhand.errors import ConfigError
from millhand.orphans.config import ReferenceSource
from millhand.orphans.sources.key_sql import non_text_json_sql, quoted, quoted_table
from millhand.orphans.sources.pg_catalog import Column, table_columns, table_names

HAS_FUNCTION = "SELECT to_regprocedure($1::text) IS NOT NULL AS is_there"

JSON = ("json", "jsonb")
TEXT, NUMBER, DATE = "S", "N", "D"
CAST = ("citext", "name")  # text types whose index has no COLLATE "C"


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What the SQL of a source needs from the catalog: the type of its id, and whether its key needs a cast to text."""

    id_type: str | None = None
    needs_cast: bool = False


async def check_source(executor: Executor, source: ReferenceSource) -> KeyFacts:
    """Check a table against the catalog. PostgreSQL checks a SELECT when it plans the query. Raises: ConfigError."""
    if source.function is not None:
        await _check_function(executor, source)
    if source.table is None:
        await _check_json(executor, source)
        return KeyFacts()
    columns = await table_columns(executor, quoted_table(source.table))
    if not columns:
        raise await _no_table(executor, source)
    key = _column(source, "key", columns)
    _check_key(source, key)
    _check_others(source, columns)
    await _check_json(executor, source)
    return KeyFacts(_id_type(source, columns), source.is_bare and key.type_name in CAST)


def _check_key(source: ReferenceSource, column: Column) -> None:
    is_json, is_array = column.type_name in JSON, column.category == "A"
    if source.json is not None:
        if not is_json:
            raise _wrong(source, "key", "must be a column of json or jsonb where json is given", column)
        return
    if source.array:
        if not is_array or column.element_category != TEXT:
            raise _wrong(source, "key", "must be an array of text where array = true", column)
        return
    remedy = f"; use select, and {quoted(source.key)}::text AS key"
    if is_json:
        remedy = '; give the path to the keys: json = "$.key"'
    if is_array:
        remedy = "; set array = true"
    if column.category != TEXT:
        raise _wrong(source, "key", "must be a column of text", column, remedy)


def _check_others(source: ReferenceSource, columns: Mapping[str, Column]) -> None:
    for field, category, rule in (
        ("size", NUMBER, "must be a column of numbers"),
        ("created_at", DATE, "must be a column of dates or times"),
        ("deleted_at", DATE, "must be a column of dates or times"),
        ("etag", None, ""),
        ("upload_id", None, ""),
    ):
        if getattr(source, field) is not None:
            column = _column(source, field, columns)
            if category is not None and column.category != category:
                raise _wrong(source, field, rule, column)


def _id_type(source: ReferenceSource, columns: Mapping[str, Column]) -> str | None:
    if not (source.pending or source.soft_deleted or source.unattached):
        return None
    if source.id not in columns or not columns[source.id].is_unique:
        raise ConfigError(
            f"id of orphans source {source.name!r} must be a column with a unique index of its own, "
            f"got {source.id!r}; name the primary key"
        )
    return columns[source.id].type


def _column(source: ReferenceSource, field: str, columns: Mapping[str, Column]) -> Column:
    name = getattr(source, field)
    if name in columns:
        return columns[name]
    remedy = _nearest(name, columns) or f"; it has: {', '.join(map(repr, columns))}"
    raise ConfigError(
        f"{field} of orphans source {source.name!r} must be a column of {source.table!r}, got {name!r}{remedy}"
    )


def _nearest(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _wrong(source: ReferenceSource, field: str, rule: str, column: Column, remedy: str = "") -> ConfigError:
    return ConfigError(
        f"{field} of orphans source {source.name!r} {rule}, "
        f"got {getattr(source, field)!r} of type {column.type}{remedy}"
    )


async def _no_table(executor: Executor, source: ReferenceSource) -> ConfigError:
    known, table = await table_names(executor), source.table or ""
    elsewhere = [name for name in known if name.rpartition(".")[2] == table]
    remedy = f"; did you mean {elsewhere[0]!r}?" if elsewhere else _nearest(table, known)
    return ConfigError(
        f"table of orphans source {source.name!r} must be a table that we can see, "
        f"got {table!r}{remedy or '; check its name and its schema'}"
    )


async def _check_json(executor: Executor, source: ReferenceSource) -> None:
    """Check in some rows that a path leads to text only."""
    sql = non_text_json_sql(source)
    if sql is not None and (found := await executor.fetch(sql)):
        raise ConfigError(
            f"json of orphans source {source.name!r} must lead to texts, got {found[0]['kind']} at {source.json!r} "
            "of some row; write [*] after an array, and the name in an object"
        )


async def _check_function(executor: Executor, source: ReferenceSource) -> None:
    function = source.function or ""
    found = await executor.fetch(HAS_FUNCTION, [f"{quoted_table(function)}(text)"])
    if not found[0]["is_there"]:
        raise ConfigError(
            f"function of orphans source {source.name!r} must be a function of one text that returns text, "
            f"got {function!r}; create it, IMMUTABLE if it needs an index"
        )
