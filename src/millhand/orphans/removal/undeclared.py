"""
References that nobody declared: before anything is removed, some candidates are looked for in the whole database.

Forgetting a kind of reference is how most live data was lost. So every column of text, JSON, arrays or row types, of every
table that we may read, is searched for the keys of a sample. A hit refuses the run and names the column: it is to be
declared as a source, or, if it only tells of keys (an audit log), to be listed in `not_references`.
"""

from __future__ import annotations

import html
import json
import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, quote_plus

from millhand.errors import DriverError, OperationTimeout
from millhand.orphans.binding import read_binding, record_search
from millhand.orphans.ledger import finding_get_due
from millhand.orphans.rules import BY_NUMBER, ORPHAN_NUMBERS, Verdict
from millhand.orphans.scan.context import RunContext
from millhand.orphans.sources.key_sql import quoted

NUM_CANDIDATES = 10_000  # the sample is drawn from so many
SAMPLE = 50
EVERY = timedelta(days=1)  # as long as the declared sources are the same
MAX_ROWS = 1_000_000  # of a table that is searched; of a larger one, so many by chance
MIN_BYTES = 4  # a shorter key stands in too many texts by accident; it is looked for as a whole value
NUM_TIMEOUTS = 10
NOT_REACHED = "08001"  # says a server of another one, whose rows a foreign table has
KEPT_IN_URLS = "/;,?:@&=+$!~*'()#"  # by a browser that writes a whole URL: JavaScript's encodeURI

COLUMNS = """
SELECT
    namespace.nspname AS schema,
    class.relname AS name,
    CASE class.relkind WHEN 'f' THEN 0 ELSE class.reltuples::bigint END AS num_rows,
    array_agg(attribute.attname::text ORDER BY attribute.attnum) AS columns
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = class.oid
JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
LEFT JOIN pg_catalog.pg_type AS base ON base.oid = type.typbasetype
LEFT JOIN pg_catalog.pg_type AS element
    ON element.oid = coalesce(base.typelem, type.typelem) AND type.typcategory = 'A'
LEFT JOIN pg_catalog.pg_type AS element_base ON element_base.oid = element.typbasetype
WHERE
    class.relkind IN ('r', 'm', 'f')
    AND class.relpersistence <> 't'
    AND namespace.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND class.relname !~ '^(millhand_|river_(client|client_queue|job|leader|migration|notification|queue)$)'
    AND attribute.attnum > 0
    AND NOT attribute.attisdropped
    AND (
        type.typcategory IN ('S', 'C')
        OR coalesce(base.typname, type.typname) IN ('json', 'jsonb', 'xml', 'hstore')
        OR element.typcategory IN ('S', 'C')
        OR coalesce(element_base.typname, element.typname) IN ('json', 'jsonb', 'xml', 'hstore')
    )
    AND has_schema_privilege(namespace.oid, 'USAGE')
    AND has_column_privilege(class.oid, attribute.attnum, 'SELECT')
GROUP BY 1, 2, 3
ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that might name keys, and its columns that can hold text."""

    columns: tuple[str, ...]
    name: str
    num_rows: int
    schema: str

    @property
    def from_sql(self) -> str:
        """The table, or as much of it as is searched."""
        table = f"{quoted(self.schema)}.{quoted(self.name)}"
        if self.num_rows <= MAX_ROWS:
            return table
        return f"{table} TABLESAMPLE SYSTEM ({100 * MAX_ROWS / self.num_rows:.4f})"


async def find_undeclared(context: RunContext) -> tuple[str, ...]:
    """
    Search the database for the keys of some orphans that are due, and return why nothing may be removed, if so.

    Once a day at most, unless the sources were declared anew.

    Raises: DriverError.
    """
    bond = (await read_binding(context.executor, context.store)).bond
    is_known = bond is not None and bond.searched_fingerprint == context.config.fingerprint
    if is_known and bond is not None and bond.searched_at and context.now - bond.searched_at < EVERY:
        return ()
    keys = await _sample(context)
    if not keys:
        return ()
    for table in await _tables(context):
        if reasons := await _search(context, table, keys):
            return reasons
    await record_search(context.executor, context.store.url, context.config.fingerprint, now=context.now)
    return ()


def written(key: str) -> list[str]:
    """Return how a text may write `key`: as it is, in JSON, in a URL, which is escaped in several ways, and in HTML."""
    forms = [unicodedata.normalize(form, key) for form in ("NFC", "NFD")]
    json_forms = [json.dumps(key)[1:-1], json.dumps(key, ensure_ascii=False)[1:-1]]
    url_forms = [quote(key), quote(key, safe=KEPT_IN_URLS), quote_plus(key, safe="/")]
    # A slash with an escape of its own is none in what is searched.
    names = (
        name.replace("\\/", "/").replace("%2F", "/")
        for name in (key, *forms, *json_forms, *url_forms, html.escape(key))
    )
    return list(dict.fromkeys(names))


def unescaped(key: str) -> str:
    """Return the longest part of `key` that every way to write it has as it is; empty if none is."""
    names = written(key)
    parts = re.findall(r"[\w./-]+", key, re.ASCII)
    return max((part for part in parts if all(part in name for name in names)), key=len, default="")


def pattern_of(name: str) -> str:
    """Return a regular expression of PostgreSQL that finds `name` in a text, as a whole word of a path."""
    if len(name.encode()) < MIN_BYTES:
        return f"^({_escaped(name)})$"
    return f"(^|[^[:alnum:]_.-]){_escaped(name)}($|[^[:alnum:]_.-]|[.-]($|[^[:alnum:]]))"


def _escaped(key: str) -> str:
    return re.sub(r"([^\w/ ])", r"\\\1", key)


def _like(key: str) -> str:
    return key.translate({ord(char): f"\\{char}" for char in "\\%_"})


async def _sample(context: RunContext) -> list[str]:
    rules = [n for n in ORPHAN_NUMBERS if BY_NUMBER[n].verdict is Verdict.REMOVE_OBJECT]
    query = finding_get_due(context.run.id, rules=rules, after=0, limit=NUM_CANDIDATES)
    keys = [finding.key for finding in await context.executor.run(query)]
    return random.sample(keys, SAMPLE) if len(keys) > SAMPLE else keys


async def _tables(context: RunContext) -> list[Table]:
    """Return what is to be searched: all but what was declared, or said to be no reference."""
    spared = set(context.config.not_references)
    for source in (context.references.source(name) for name in context.references.names):
        # JSON is searched all the same: keys may stand in it elsewhere than at the path that was declared.
        if source.table is not None and source.json is None:
            spared.add(f"{source.table}.{source.key}")
    tables = []
    for row in await context.executor.fetch(COLUMNS):
        schema, name = row["schema"], row["name"]
        if {name, f"{schema}.{name}"} & spared:
            continue
        columns = [one for one in row["columns"] if not {f"{name}.{one}", f"{schema}.{name}.{one}"} & spared]
        if columns:
            tables.append(Table(columns=tuple(columns), name=name, num_rows=row["num_rows"], schema=schema))
    return tables


async def _search(context: RunContext, table: Table, keys: Sequence[str]) -> tuple[str, ...]:
    # PHP writes \/ in JSON, and some URLs have a whole key as one part of their path.
    values = [f"replace(replace({quoted(column)}::text, '\\/', '/'), '%2F', '/')" for column in table.columns]
    columns = [f"{value} AS {quoted(column)}" for value, column in zip(values, table.columns, strict=True)]
    # A million rows take 203 s by regular expressions alone, and 12 s where LIKE leaves them few to look at: first those
    # with a part of a key that is written alike everywhere, for there are up to eight ways to write each.
    sql = (
        f"SELECT {', '.join(columns)}\nFROM {table.from_sql}\nWHERE EXISTS (\n    SELECT\n"
        f"    FROM unnest(ARRAY[{', '.join(values)}]) AS value\n"
        "    WHERE CASE WHEN value LIKE ANY ($3::text[]) THEN EXISTS (\n"
        "        SELECT FROM unnest($1::text[], $2::text[]) AS one (pattern, part)\n"
        "        WHERE CASE WHEN value LIKE part THEN value ~ pattern ELSE false END\n    ) ELSE false END\n)\nLIMIT 1"
    )
    names = [name for key in keys for name in written(key)]
    params = [
        [pattern_of(name) for name in names],
        [f"%{_like(name)}%" for name in names],
        [f"%{_like(unescaped(key))}%" for key in keys],
    ]
    seconds = context.config.source_timeout.total_seconds() * NUM_TIMEOUTS
    try:
        async with context.executor.begin() as tx:
            await tx.fetch("SET LOCAL row_security = off")
            found = await tx.fetch(sql, params, timeout_seconds=seconds)
    except (DriverError, OperationTimeout) as error:
        if isinstance(error, DriverError) and error.retryable and error.sqlstate != NOT_REACHED:
            raise
        rule = f"table {table.schema}.{table.name} must be searched for references that nobody declared"
        return (f"{rule}, got {error}; mend it, or list '{table.name}' in orphans.not_references",)
    return tuple(_hit(table, row, keys) for row in found)


def _hit(table: Table, row: dict[str, Any], keys: Sequence[str]) -> str:
    hits = [
        (column, key)
        for column, text in zip(table.columns, row.values(), strict=False)
        for key in keys
        if text and any(name in text for name in written(key))
    ]
    column, key = hits[0] if hits else (table.columns[0], keys[0])
    place = f"{table.name}.{column}"
    return (
        f"every reference must be declared, got {key!r} in {table.schema}.{place}, which no source covers; "
        f"declare it in [[orphans.sources]], or, if it has no claim to the object, list '{place}' in "
        "orphans.not_references"
    )
