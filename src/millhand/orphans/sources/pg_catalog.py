"""
Read PostgreSQL's catalog: the tables and columns of an application.

Source: PostgreSQL, "System Catalogs" (pg_class, pg_attribute, pg_type, pg_index).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from millhand.db.driver.protocol import Executor

# `other` is a row type, XML, hstore, the type `name`, or an array of such.
ColumnKind = Literal["text", "array", "json", "other"]

JOINED = """
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = class.oid
JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
LEFT JOIN pg_catalog.pg_type AS base ON base.oid = type.typbasetype
LEFT JOIN pg_catalog.pg_type AS element
    ON element.oid = coalesce(base.typelem, type.typelem) AND type.typcategory = 'A'
LEFT JOIN pg_catalog.pg_type AS element_base ON element_base.oid = element.typbasetype
WHERE attribute.attnum > 0 AND NOT attribute.attisdropped
"""
COLUMNS = f"""
SELECT
    attribute.attname::text AS name,
    format_type(attribute.atttypid, attribute.atttypmod) AS type,
    coalesce(base.typname, type.typname)::text AS type_name,
    type.typcategory::text AS category,
    coalesce(element.typcategory::text, '') AS element_category,
    EXISTS (
        SELECT FROM pg_catalog.pg_index AS index
        WHERE
            index.indrelid = class.oid AND index.indisunique AND index.indpred IS NULL
            AND index.indnkeyatts = 1 AND index.indkey[0] = attribute.attnum
    ) AS is_unique,
    attribute.attgenerated <> '' AS is_generated
{JOINED}    AND class.oid = to_regclass($1::text)
ORDER BY attribute.attnum
"""
TEXT_TABLES = f"""
SELECT
    namespace.nspname::text AS schema,
    class.relname::text AS name,
    class.relkind = 'f' AS is_foreign,
    class.relkind = 'p' AS is_partitioned,
    class.relispartition AS is_partition,
    class.reltuples::bigint AS num_rows,
    pg_table_is_visible(class.oid) AS is_visible,
    (
        SELECT key.attname::text
        FROM pg_catalog.pg_index AS index
        JOIN pg_catalog.pg_attribute AS key ON key.attrelid = class.oid AND key.attnum = index.indkey[0]
        WHERE index.indrelid = class.oid AND index.indisprimary AND index.indnkeyatts = 1
    ) AS id,
    (
        SELECT min(soft.attname::text)
        FROM pg_catalog.pg_attribute AS soft
        WHERE
            soft.attrelid = class.oid AND NOT soft.attisdropped
            AND soft.attname IN ('deleted_at', 'removed_at', 'deleted_on', 'trashed_at', 'discarded_at')
            AND soft.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype, 'date'::regtype)
    ) AS deleted_at,
    array_agg(attribute.attname::text ORDER BY attribute.attnum) AS columns,
    array_agg(
        CASE
            WHEN coalesce(base.typname, type.typname) IN ('json', 'jsonb') THEN 'json'
            WHEN type.typcategory = 'S' AND type.typname <> 'name' THEN 'text'
            WHEN element.typcategory = 'S' THEN 'array'
            ELSE 'other'
        END
        ORDER BY attribute.attnum
    ) AS column_kinds
{JOINED}    AND class.relkind IN ('r', 'm', 'p', 'f')
    AND class.relpersistence <> 't'
    AND namespace.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND class.relname !~ '^(millhand_|river_(client|client_queue|job|leader|migration|notification|queue)$)'
    AND (
        type.typcategory IN ('S', 'C')
        OR coalesce(base.typname, type.typname) IN ('json', 'jsonb', 'xml', 'hstore')
        OR element.typcategory IN ('S', 'C')
        OR coalesce(element_base.typname, element.typname) IN ('json', 'jsonb', 'xml', 'hstore')
    )
    AND has_schema_privilege(namespace.oid, 'USAGE')
    AND has_column_privilege(class.oid, attribute.attnum, 'SELECT')
GROUP BY class.oid, namespace.nspname
ORDER BY 1, 2
"""
TABLE_NAMES = """
SELECT relname::text AS name, pg_table_is_visible(class.oid) AS is_visible, nspname::text AS schema
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND nspname NOT IN ('pg_catalog', 'information_schema')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """
    A column of one table.

    `type` is the name for a cast, `type_name` the type below a domain. `is_unique` means a unique index of its own.
    """

    name: str
    type: str
    type_name: str
    category: str
    element_category: str
    is_unique: bool
    is_generated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """
    A table with columns that can hold text and that we may read.

    `num_rows` is the planner's estimate, -1 if there is none. `id` is a primary key of one column. `deleted_at` is a column
    of dates with a name such as `deleted_at`.
    """

    schema: str
    name: str
    is_foreign: bool
    is_partitioned: bool
    is_partition: bool
    is_visible: bool
    num_rows: int
    id: str | None
    deleted_at: str | None
    columns: Mapping[str, ColumnKind]

    @property
    def qualified_name(self) -> str:
        return f"{self.schema}.{self.name}"


async def table_columns(executor: Executor, table_sql: str) -> dict[str, Column]:
    """Return the columns of a table by name; none if there is no such table. Raises: DriverError."""
    return {row["name"]: Column(**row) for row in await executor.fetch(COLUMNS, [table_sql])}


async def text_tables(executor: Executor) -> list[TextTable]:
    """Return the application's tables that can hold text, in order of their names. Raises: DriverError."""
    tables = []
    for row in await executor.fetch(TEXT_TABLES):
        columns = dict(zip(row.pop("columns"), row.pop("column_kinds"), strict=True))
        tables.append(TextTable(**row, columns=columns))
    return tables


async def table_names(executor: Executor) -> list[str]:
    """Return the names of all tables and views, with their schema if the search path lacks it. Raises: DriverError."""
    return [
        row["name"] if row["is_visible"] else f"{row['schema']}.{row['name']}"
        for row in await executor.fetch(TABLE_NAMES)
    ]
