"""
Search the database for undeclared references: the keys of some orphans, before a run removes anything.

A forgotten kind of reference is the most common way to lose live data. So the search covers every column of text, JSON,
arrays or row types, of every table that we may read. A hit aborts the removal and names the column. The user declares it as
a source, or lists it in `not_references` if it only records keys, as an audit log does.
"""

from __future__ import annotations

import html
import json
import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote, quote_plus

from millhand.errors import DriverError, OperationTimeout
from millhand.orphans.binding import read_binding, record_search
from millhand.orphans.ledger import finding_get_due
from millhand.orphans.rules import BY_NUMBER, ORPHAN_NUMBERS, Verdict
from millhand.orphans.scan.context import RunContext
from millhand.orphans.sources.key_sql import quoted, regex_literal
from millhand.orphans.sources.pg_catalog import TextTable, text_tables

NUM_CANDIDATES = 10_000  # from which the sample is drawn
SAMPLE = 50
INTERVAL = timedelta(days=1)  # between searches, while the configuration is the same
MAX_ROWS = 1_000_000  # larger tables are sampled
MIN_BYTES = 4  # shorter keys occur in many texts by accident, so they must be a whole value
NUM_TIMEOUTS = 10
NOT_REACHED = "08001"  # the server behind a foreign table does not respond
SAFE_IN_URLS = "/;,?:@&=+$!~*'()#"  # characters that JavaScript's encodeURI leaves as they are


async def find_undeclared(context: RunContext) -> tuple[str, ...]:
    """Search for the keys of some orphans that are due, once a day. Return the reasons to remove nothing."""
    row = (await read_binding(context.executor, context.store)).row
    is_known = row is not None and row.searched_fingerprint == context.config.fingerprint
    if is_known and row is not None and row.searched_at and context.now - row.searched_at < INTERVAL:
        return ()
    keys = await _sample(context)
    if not keys:
        return ()
    for table in await _tables(context):
        if reasons := await _search(context, table, keys):
            return reasons
    await record_search(context.executor, context.store.url, context.config.fingerprint, now=context.now)
    return ()


def written_forms(key: str) -> list[str]:
    """Return the forms of `key` in a text: unchanged, in JSON, in a URL with several escapes, and in HTML."""
    forms = [unicodedata.normalize(form, key) for form in ("NFC", "NFD")]
    json_forms = [json.dumps(key)[1:-1], json.dumps(key, ensure_ascii=False)[1:-1]]
    url_forms = [quote(key), quote(key, safe=SAFE_IN_URLS), quote_plus(key, safe="/")]
    # The search removes the escapes of slashes from both sides.
    names = (
        name.replace("\\/", "/").replace("%2F", "/")
        for name in (key, *forms, *json_forms, *url_forms, html.escape(key))
    )
    return list(dict.fromkeys(names))


def unescaped_part(key: str) -> str:
    """Return the longest part of `key` that is the same in all its written forms; empty if there is none."""
    names = written_forms(key)
    parts = re.findall(r"[\w./-]+", key, re.ASCII)
    return max((part for part in parts if all(part in name for name in names)), key=len, default="")


def pattern_of(name: str) -> str:
    """Return a regular expression that finds `name` in a text, not as part of a longer name."""
    literal = regex_literal(name)
    if len(name.encode()) < MIN_BYTES:
        return f"^({literal})$"
    return f"(^|[^[:alnum:]_.-]){literal}($|[^[:alnum:]_.-]|[.-]($|[^[:alnum:]]))"


def _like(key: str) -> str:
    return key.translate({ord(char): f"\\{char}" for char in "\\%_"})


async def _sample(context: RunContext) -> list[str]:
    rules = [n for n in ORPHAN_NUMBERS if BY_NUMBER[n].verdict is Verdict.REMOVE_OBJECT]
    query = finding_get_due(context.run.id, rules=rules, after=0, limit=NUM_CANDIDATES)
    keys = [finding.key for finding in await context.executor.run(query)]
    return random.sample(keys, SAMPLE) if len(keys) > SAMPLE else keys


async def _tables(context: RunContext) -> list[TextTable]:
    """Return the tables and columns to search: all except declared sources and `not_references`."""
    excluded = set(context.config.not_references)
    for source in (context.references.source(name) for name in context.references.names):
        # A declared JSON column is searched too, because keys may stand outside the declared path.
        if source.table is not None and source.json is None:
            excluded.add(f"{source.table}.{source.key}")
    tables = []
    for table in await text_tables(context.executor):
        names = (table.name, table.qualified_name)
        # The partitions of a partitioned table are searched one by one.
        if table.is_partitioned or excluded.intersection(names):
            continue
        columns = {
            column: kind
            for column, kind in table.columns.items()
            if not excluded.intersection(f"{name}.{column}" for name in names)
        }
        if columns:
            tables.append(replace(table, columns=columns))
    return tables


def _from_sql(table: TextTable) -> str:
    """Return the FROM item of a table, or of a sample of it. Foreign tables cannot be sampled."""
    from_sql = f"{quoted(table.schema)}.{quoted(table.name)}"
    if table.is_foreign or table.num_rows <= MAX_ROWS:
        return from_sql
    return f"{from_sql} TABLESAMPLE SYSTEM ({100 * MAX_ROWS / table.num_rows:.4f})"


async def _search(context: RunContext, table: TextTable, keys: Sequence[str]) -> tuple[str, ...]:
    # PHP writes \/ in JSON. Some URLs hold a whole key as one part of the path, with %2F.
    values = [f"replace(replace({quoted(column)}::text, '\\/', '/'), '%2F', '/')" for column in table.columns]
    columns = [f"{value} AS {quoted(column)}" for value, column in zip(values, table.columns, strict=True)]
    # A million rows take 203 s with regular expressions alone, and 12 s with LIKE before them. The first LIKE compares the
    # unescaped parts, because a key has up to eight written forms.
    sql = (
        f"SELECT {', '.join(columns)}\nFROM {_from_sql(table)}\nWHERE EXISTS (\n    SELECT\n"
        f"    FROM unnest(ARRAY[{', '.join(values)}]) AS value\n"
        "    WHERE CASE WHEN value LIKE ANY ($3::text[]) THEN EXISTS (\n"
        "        SELECT FROM unnest($1::text[], $2::text[]) AS one (pattern, part)\n"
        "        WHERE CASE WHEN value LIKE part THEN value ~ pattern ELSE false END\n    ) ELSE false END\n)\nLIMIT 1"
    )
    names = [name for key in keys for name in written_forms(key)]
    params = [
        [pattern_of(name) for name in names],
        [f"%{_like(name)}%" for name in names],
        [f"%{_like(unescaped_part(key))}%" for key in keys],
    ]
    seconds = context.config.source_timeout.total_seconds() * NUM_TIMEOUTS
    try:
        async with context.executor.begin() as tx:
            await tx.fetch("SET LOCAL row_security = off")
            found = await tx.fetch(sql, params, timeout_seconds=seconds)
    except (DriverError, OperationTimeout) as error:
        if isinstance(error, DriverError) and error.retryable and error.sqlstate != NOT_REACHED:
            raise
        rule = f"table {table.schema}.{table.name} must be searched for undeclared references"
        return (f"{rule}, got {error}; make it readable, or list '{table.name}' in orphans.not_references",)
    return tuple(_hit(table, row, keys) for row in found)


def _hit(table: TextTable, row: dict[str, Any], keys: Sequence[str]) -> str:
    hits = [
        (column, key)
        for column, text in zip(table.columns, row.values(), strict=False)
        for key in keys
        if text and any(name in text for name in written_forms(key))
    ]
    column, key = hits[0] if hits else (next(iter(table.columns)), keys[0])
    place = f"{table.name}.{column}"
    return (
        f"every reference must be declared, got {key!r} in {table.schema}.{place}, which no source covers; "
        f"declare it in [[orphans.sources]], or list '{place}' in orphans.not_references if it does not need the object"
    )
