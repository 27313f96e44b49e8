"""Read what a schema contains, in the form of tests/fixtures/river/schema.json."""

from __future__ import annotations

import json
from typing import Any

import asyncpg

Catalog = dict[str, Any]

TABLES = """
SELECT json_build_object(
    'name', class.relname,
    'persistence', CASE class.relpersistence WHEN 'p' THEN 'logged' WHEN 'u' THEN 'unlogged' END,
    'columns', (
        SELECT json_agg(json_build_object(
            'name', attname, 'type', format_type(atttypid, atttypmod), 'not_null', attnotnull,
            'default', pg_get_expr(adbin, adrelid)) ORDER BY attnum)
        FROM pg_attribute
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = class.oid AND attnum > 0 AND NOT attisdropped),
    'constraints', coalesce((
        SELECT json_agg(json_build_object(
            'name', conname, 'type', contype, 'definition', pg_get_constraintdef(oid)) ORDER BY conname)
        FROM pg_constraint WHERE conrelid = class.oid AND contype <> 'n'), '[]'),
    'indexes', coalesce((
        SELECT json_agg(json_build_object(
            'name', i.relname, 'unique', indisunique, 'definition', pg_get_indexdef(indexrelid)) ORDER BY i.relname)
        FROM pg_index JOIN pg_class AS i ON i.oid = indexrelid WHERE indrelid = class.oid), '[]'),
    'triggers', coalesce((
        SELECT json_agg(json_build_object('name', tgname, 'definition', pg_get_triggerdef(oid)) ORDER BY tgname)
        FROM pg_trigger WHERE tgrelid = class.oid AND NOT tgisinternal), '[]'))
FROM pg_class AS class
WHERE relnamespace = quote_ident($1)::regnamespace AND relkind = 'r'
ORDER BY relname
"""

SEQUENCES = """
SELECT json_build_object(
    'name', class.relname, 'type', format_type(seqtypid, NULL), 'persistence', relpersistence,
    'owned_by', (
        SELECT refobjid::regclass::text || '.' || attname
        FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
        WHERE objid = class.oid AND deptype = 'a'))
FROM pg_class AS class JOIN pg_sequence ON seqrelid = class.oid
WHERE relnamespace = quote_ident($1)::regnamespace
ORDER BY relname
"""

ENUMS = """
SELECT json_build_object('name', typname, 'labels', (
    SELECT json_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = pg_type.oid))
FROM pg_type
WHERE typnamespace = quote_ident($1)::regnamespace AND typtype = 'e'
ORDER BY typname
"""

FUNCTIONS = """
SELECT json_build_object(
    'name', proname, 'arguments', pg_get_function_identity_arguments(pg_proc.oid),
    'returns', pg_get_function_result(pg_proc.oid), 'language', lanname, 'volatility', provolatile,
    'strict', proisstrict, 'parallel', proparallel, 'security_definer', prosecdef)
FROM pg_proc JOIN pg_language ON pg_language.oid = prolang
WHERE pronamespace = quote_ident($1)::regnamespace
ORDER BY proname
"""

VIEWS = """
SELECT json_build_object('name', relname)
FROM pg_class
WHERE relnamespace = quote_ident($1)::regnamespace AND relkind IN ('v', 'm')
"""


async def catalog(connection: asyncpg.Connection, schema: str) -> Catalog:
    """Return everything in a schema, and the migration table if there is one."""
    queries = {
        "tables": TABLES,
        "sequences": SEQUENCES,
        "enums": ENUMS,
        "functions": FUNCTIONS,
        "views": VIEWS,
    }
    found: Catalog = {
        name: [json.loads(row[0]) for row in await connection.fetch(sql, schema)]
        for name, sql in queries.items()
    }
    tables = {table["name"]: [column["name"] for column in table["columns"]] for table in found["tables"]}
    if columns := tables.get("river_migration"):
        known = [name for name in ("line", "version") if name in columns]
        rows = await connection.fetch(
            f'SELECT {", ".join(known)} FROM "{schema}".river_migration ORDER BY {", ".join(known)}'
        )
        found["river_migration"] = [dict(row) for row in rows]
    return found
