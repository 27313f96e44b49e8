"""A declared source, held against the catalog: that the table is there, and its columns are what they were said to be."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from millhand.driver.protocol import Executor
from millhand.errors import ConfigError
from millhand.orphans.config import ReferenceSource
from millhand.orphans.sources.key_sql import odd_json_sql, quoted, quoted_table

COLUMNS = """
SELECT
    attribute.attname::text AS name,
    format_type(attribute.atttypid, attribute.atttypmod) AS type,
    coalesce(base.typname, type.typname)::text AS type_name,
    type.typcategory::text AS category,
    coalesce(element.typcategory::text, '') AS element_category,
    EXISTS (
        SELECT FROM pg_catalog.pg_index AS index
        WHERE
            index.indrelid = attribute.attrelid AND index.indisunique AND index.indpred IS NULL
            AND index.indnkeyatts = 1 AND index.indkey[0] = attribute.attnum
    ) AS is_unique
FROM pg_catalog.pg_attribute AS attribute
JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
LEFT JOIN pg_catalog.pg_type AS base ON base.oid = type.typbasetype
LEFT JOIN pg_catalog.pg_type AS element ON element.oid = type.typelem AND type.typcategory = 'A'
WHERE attribute.attrelid = to_regclass($1::text) AND attribute.attnum > 0 AND NOT attribute.attisdropped
"""
TABLES = """
SELECT relname::text AS name, pg_table_is_visible(class.oid) AS is_visible, nspname::text AS schema
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname NOT IN ('pg_catalog', 'information_schema')
"""
FUNCTIONS = "SELECT to_regprocedure($1::text) IS NOT NULL AS is_there"

JSON = ("json", "jsonb")
TEXT, NUMBER, DATE = "S", "N", "D"
CAST = ("citext", "name")  # text, but not to an index on COLLATE "C"


@dataclass(frozen=True, slots=True)
class Declared:
    """What the catalog knows of a source: the type of its id, and whether its key must be cast to be plain text."""

    id_type: str | None = None
    is_cast: bool = False


async def look_up(executor: Executor, source: ReferenceSource) -> Declared:
    """
    Hold the declaration of a table against the catalog; a SELECT is seen when it is planned.

    Raises: ConfigError, with what is there in its place; DriverError.
    """
    if source.function is not None:
        await _check_function(executor, source)
    if source.table is None:
        await _check_json(executor, source)
        return Declared()
    rows = await executor.fetch(COLUMNS, [quoted_table(source.table)])
    if not rows:
        raise await _no_table(executor, source)
    columns = {row["name"]: row for row in rows}
    _check_key(source, _column(source, "key", columns))
    _check_others(source, columns)
    await _check_json(executor, source)
    is_cast = source.is_bare and columns[source.key]["type_name"] in CAST
    return Declared(_id_type(source, columns), is_cast)


def nearest(name: str, known: Collection[str]) -> str:
    """Return what follows a name that is unknown: the one that was meant, or where to look."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _check_key(source: ReferenceSource, column: Mapping[str, Any]) -> None:
    is_json, is_array = column["type_name"] in JSON, column["category"] == "A"
    if source.json is not None:
        if not is_json:
            raise _wrong(source, "key", "must be a column of json or jsonb where json is given", column, "")
        return
    if source.array:
        if not is_array or column["element_category"] != TEXT:
            raise _wrong(source, "key", "must be an array of text where array = true", column, "")
        return
    remedy = f"; use select, and {quoted(source.key)}::text AS key"
    if is_json:
        remedy = '; say where in it the keys are: json = "$.key"'
    if is_array:
        remedy = "; say array = true"
    if column["category"] != TEXT:
        raise _wrong(source, "key", "must be a column of text", column, remedy)


def _check_others(source: ReferenceSource, columns: Mapping[str, Mapping[str, Any]]) -> None:
    for field, category, rule in (
        ("size", NUMBER, "must be a column of numbers"),
        ("created_at", DATE, "must be a column of dates or times"),
        ("deleted_at", DATE, "must be a column of dates or times"),
        ("etag", None, ""),
        ("upload_id", None, ""),
    ):
        if getattr(source, field) is not None:
            column = _column(source, field, columns)
            if category is not None and column["category"] != category:
                raise _wrong(source, field, rule, column, "")


def _id_type(source: ReferenceSource, columns: Mapping[str, Mapping[str, Any]]) -> str | None:
    if not (source.pending or source.soft_deleted or source.unattached):
        return None
    if source.id not in columns or not columns[source.id]["is_unique"]:
        raise ConfigError(
            f"id of orphans source {source.name!r} must be a column with a unique index of its own, "
            f"got {source.id!r}; name the primary key"
        )
    return str(columns[source.id]["type"])


def _column(
    source: ReferenceSource, field: str, columns: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any]:
    name = getattr(source, field)
    if name in columns:
        return columns[name]
    remedy = nearest(name, columns) or f"; it has: {', '.join(map(repr, columns))}"
    raise ConfigError(
        f"{field} of orphans source {source.name!r} must be a column of {source.table!r}, got {name!r}{remedy}"
    )


def _wrong(
    source: ReferenceSource, field: str, rule: str, column: Mapping[str, Any], remedy: str
) -> ConfigError:
    return ConfigError(
        f"{field} of orphans source {source.name!r} {rule}, "
        f"got {getattr(source, field)!r} of type {column['type']}{remedy}"
    )


async def _no_table(executor: Executor, source: ReferenceSource) -> ConfigError:
    known = [
        row["name"] if row["is_visible"] else f"{row['schema']}.{row['name']}"
        for row in await executor.fetch(TABLES)
    ]
    table = source.table or ""
    elsewhere = [name for name in known if name.rpartition(".")[2] == table]
    remedy = f"; did you mean {elsewhere[0]!r}?" if elsewhere else nearest(table, known)
    return ConfigError(
        f"table of orphans source {source.name!r} must be a table that we can see, "
        f"got {table!r}{remedy or '; see its name and its schema'}"
    )


async def _check_json(executor: Executor, source: ReferenceSource) -> None:
    """See in some rows that a path leads to texts, and to all of them."""
    sql = odd_json_sql(source)
    if sql is not None and (found := await executor.fetch(sql)):
        raise ConfigError(
            f"json of orphans source {source.name!r} must lead to texts, got {found[0]['kind']} at {source.json!r} "
            "of some row; write [*] after an array, and the name in an object"
        )


async def _check_function(executor: Executor, source: ReferenceSource) -> None:
    function = source.function or ""
    found = await executor.fetch(FUNCTIONS, [f"{quoted_table(function)}(text)"])
    if not found[0]["is_there"]:
        raise ConfigError(
            f"function of orphans source {source.name!r} must be a function of one text that returns text, "
            f"got {function!r}; make it, IMMUTABLE if it is to have an index"
        )
