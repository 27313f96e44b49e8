"""Check a declared source against the catalog: its table exists and its columns have the declared form."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import replace

from millhand.core.errors import ConfigError
from millhand.core.orphans import ReferenceSource
from millhand.db.driver.protocol import Executor
from millhand.orphans.sources.key_sql import from_sql, non_text_json_sql, quoted, quoted_table, value_sql
from millhand.orphans.sources.pg_catalog import Column, table_columns, table_names
from millhand.orphans.sources.statements import SourceFacts

HAS_FUNCTION = "SELECT to_regprocedure($1::text) IS NOT NULL AS is_there"
RELATION = """
SELECT
    relkind = 'r' AS is_plain,
    relkind IN ('r', 'p') AS has_versions,
    relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = class.oid) AS has_children
FROM pg_catalog.pg_class AS class
WHERE class.oid = to_regclass($1::text)
"""
# No rows are read: the types of the subqueries are known when they are planned.
IS_NONDETERMINISTIC = """
EXISTS (
    SELECT FROM pg_catalog.pg_collation
    WHERE NOT collisdeterministic AND oid = to_regcollation(pg_collation_for((SELECT {}::text FROM {} LIMIT 0)))
)
"""
TYPE = """
(
    SELECT format_type(coalesce(nullif(typbasetype, 0), type.oid), NULL)
    FROM pg_catalog.pg_type AS type
    WHERE type.oid = pg_typeof((SELECT {} FROM {} LIMIT 0))
)
"""
NAIVE = ("date", "timestamp without time zone")
LOOSE = ("numeric", "real", "double precision")

JSON = ("json", "jsonb")
TEXT, NUMBER, DATE = "S", "N", "D"
CAST = ("citext", "name")  # text types whose index has no COLLATE "C"


async def check_source(executor: Executor, source: ReferenceSource) -> SourceFacts:
    """Check a table against the catalog. PostgreSQL checks a SELECT when it plans the query. Raises: ConfigError."""
    if source.function is not None:
        await _check_function(executor, source)
    if source.table is None:
        await _check_json(executor, source)
        return await _facts_of_values(executor, source)
    columns = await table_columns(executor, quoted_table(source.table))
    if not columns:
        raise await _no_table(executor, source)
    key = _column(source, "key", columns)
    _check_key(source, key)
    _check_others(source, columns)
    await _check_json(executor, source)
    [relation] = await executor.fetch(RELATION, [quoted_table(source.table)])
    id_ = _id(source, columns)
    return replace(
        await _facts_of_values(executor, source),
        **relation,
        id=id_,
        id_type=None if id_ is None else columns[id_].type,
        needs_cast=source.is_bare and key.type_name in CAST,
    )


async def _facts_of_values(executor: Executor, source: ReferenceSource) -> SourceFacts:
    """Return what the types of key, size and times require. They may be those of a SELECT. Raises: ConfigError."""
    times = {"created_at": source.created_at, "deleted_at": source.deleted_at}
    columns, rows = times | {"size": source.size}, from_sql(source)
    wanted = {
        name: TYPE.format(quoted(column), rows) for name, column in columns.items() if column is not None
    } | {"is_nondeterministic": IS_NONDETERMINISTIC.format(value_sql(source), rows)}
    sql = "SELECT " + ",\n".join(f"{expression} AS {name}" for name, expression in wanted.items())
    [found] = await executor.fetch(sql)
    naive = {name: column for name, column in times.items() if column and found[name] in NAIVE}
    if naive and source.time_zone is None:
        field, column = next(iter(naive.items()))
        raise ConfigError(
            f"{field} of orphans source {source.name!r} must be a column of times with a time zone, got {column!r} of type "
            f'{found[field]}, whose zone only the application knows; declare time_zone = "UTC", or the zone that it writes'
        )
    return SourceFacts(
        is_nondeterministic=found["is_nondeterministic"],
        is_size_loose=found.get("size") in LOOSE,
        naive_times=frozenset(naive.values()),
    )


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


def _id(source: ReferenceSource, columns: Mapping[str, Column]) -> str | None:
    """Return the column that identifies a row: the declared one if rows may be deleted, otherwise any."""
    if source.id in columns and columns[source.id].is_unique:
        return source.id
    if source.has_states:
        raise ConfigError(
            f"id of orphans source {source.name!r} must be a column with a unique index of its own, "
            f"got {source.id!r}; name the primary key"
        )
    return next((name for name, column in columns.items() if column.is_unique and name != source.key), None)


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
