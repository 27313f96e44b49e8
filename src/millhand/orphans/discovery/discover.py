"""
Where a database names the objects of a bucket: columns are looked at, and what their values would name is looked up.

Rule 1: nothing is written, and no table of any size is read from end to end: large ones are sampled by blocks, each in a
        read-only transaction of its own that ends in seconds.
Rule 2: a column is proposed only if objects were seen under keys that it names.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from millhand.driver.protocol import Executor
from millhand.errors import DriverError, OperationTimeout
from millhand.orphans.config import ReferenceSource, source_name
from millhand.orphans.discovery.guess import Guess, Shapes, leaves
from millhand.orphans.scan.canary import ALPHABET
from millhand.orphans.scan.lookup import gather_all, is_there
from millhand.orphans.sources.key_sql import index_sql, quoted
from millhand.orphans.sources.query_plan import num_scanned
from millhand.orphans.sources.statements import SourceStatements
from millhand.storage import ObjectStore

LAST = "\U0010ffff"  # after every other character
NUM_PAGES = 40
NUM_FIRST = 1_000  # keys of the first page: of a small bucket, all
NUM_NEXT = 50
NUM_ROWS = 1_000  # of each table
MANY_ROWS = 20 * NUM_ROWS  # a table that has more is sampled
MAX_TEXT = 20_000  # characters of a value; of longer JSON, nothing is known
NUM_ASKED = 20  # objects that are looked up for each reading of a column
NUM_ASKED_IN_ALL = 2_000
NUM_AT_ONCE = 16
MAX_SCANNED = 1_000_000  # rows that may be read one after the other to ask for the sampled keys

COLUMNS = """
SELECT
    namespace.nspname::text AS schema,
    class.relname::text AS name,
    pg_table_is_visible(class.oid) AS is_visible,
    greatest(class.reltuples, CASE WHEN class.relkind = 'p' THEN 0 ELSE -1 END)::bigint AS num_rows,
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
        CASE WHEN type.typcategory = 'A' THEN 'array' WHEN type.typname IN ('json', 'jsonb') THEN 'json' ELSE 'text' END
        ORDER BY attribute.attnum
    ) AS kinds
FROM pg_catalog.pg_class AS class
JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = class.oid
JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
LEFT JOIN pg_catalog.pg_type AS element ON element.oid = type.typelem AND type.typcategory = 'A'
WHERE
    class.relkind IN ('r', 'm', 'p')
    AND NOT class.relispartition
    AND class.relpersistence <> 't'
    AND namespace.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND class.relname !~ '^(river|millhand)_'
    AND attribute.attnum > 0
    AND NOT attribute.attisdropped
    AND (
        (type.typcategory = 'S' AND type.typname <> 'name')
        OR type.typname IN ('json', 'jsonb')
        OR element.typcategory = 'S'
    )
    AND has_schema_privilege(namespace.oid, 'USAGE')
    AND has_column_privilege(class.oid, attribute.attnum, 'SELECT')
GROUP BY class.oid, 1, 2, 3, 4
ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """
    A source that was seen to name objects, and what speaks for it.

    Of `num_sampled` rows, `num_values` values were read that fit the keys of the bucket; of those `num_asked` were looked up
    and `num_found` were there. `num_named` of the sampled keys are named by it; None where that would read a large table
    whole. `num_rows` is what the last ANALYZE knows, None if there was none. `index` is what would make it fast.
    """

    source: ReferenceSource
    num_rows: int | None
    num_sampled: int
    num_values: int
    num_asked: int
    num_found: int
    num_named: int | None
    examples: tuple[str, ...]
    deleted_at: str | None
    index: str | None

    @property
    def is_small(self) -> bool:
        """Whether the table is read so quickly that it needs no index."""
        return self.num_sampled < NUM_ROWS if self.num_rows is None else self.num_rows <= MANY_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What was found, best first; `unnamed` are sampled keys that no proposal names, `unread` tables that gave no answer."""

    num_keys: int
    num_tables: int
    num_columns: int
    proposals: tuple[Proposal, ...]
    num_unnamed: int
    unnamed: tuple[str, ...]
    unread: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class _Reading:
    """One way to read a column, and the keys that it would name."""

    column: str
    guess: Guess
    is_array: bool
    path: str | None
    keys: dict[str, None] = field(default_factory=dict)
    num_asked: int = 0
    found: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Table:
    """A table, its sample, and how its columns can be read."""

    row: Mapping[str, Any]
    num_sampled: int
    readings: list[_Reading]

    @property
    def name(self) -> str:
        schema, name = self.row["schema"], self.row["name"]
        return str(name if self.row["is_visible"] else f"{schema}.{name}")


async def discover(
    executor: Executor,
    store: ObjectStore,
    *,
    prefix: str = "",
    table_timeout: timedelta = timedelta(seconds=5),
) -> Discovery:
    """
    Look at the database and at some of the bucket, and propose sources.

    `table_timeout` is for each question to one table.

    Raises: StoreError; DriverError.
    """
    keys = await sample_keys(store, prefix)
    shapes = Shapes.of(keys)
    rows = await executor.fetch(COLUMNS)
    tables: list[_Table] = []
    unread: dict[str, str] = {}
    for row in rows:
        try:
            tables.append(await _read(executor, row, shapes, table_timeout.total_seconds()))
        except (DriverError, OperationTimeout) as error:
            if isinstance(error, DriverError) and error.retryable:
                raise
            unread[f"{row['schema']}.{row['name']}"] = str(error)
    await _look_up(store, shapes, [reading for table in tables for reading in table.readings])
    proposals, named = await _propose(executor, tables, keys, table_timeout.total_seconds())
    unnamed = [key for key in keys if key not in named]
    return Discovery(
        num_keys=len(keys),
        num_tables=len(rows),
        num_columns=sum(len(row["columns"]) for row in rows),
        proposals=tuple(proposals),
        num_unnamed=len(unnamed),
        unnamed=tuple(unnamed[:5]),
        unread=unread,
    )


async def sample_keys(store: ObjectStore, prefix: str = "") -> list[str]:
    """Return some keys from all over a bucket: its beginning, each directory at the top, and places by chance."""
    page = await _page(store, prefix, "", NUM_FIRST)
    keys = dict.fromkeys(page)
    if len(page) < NUM_FIRST:
        return page
    start, places = "", _places(prefix)
    for _ in range(NUM_PAGES):
        page = await _page(store, prefix, start, NUM_NEXT)
        keys |= dict.fromkeys(page)
        head, slash, _ = (page[-1] if page else "").removeprefix(prefix).partition("/")
        if slash:
            start = f"{prefix}{head}/{LAST}"
        elif places:
            start = places.pop()
        else:
            break
    return list(keys)


async def _page(store: ObjectStore, prefix: str, start_after: str, num_keys: int) -> list[str]:
    pages = store.list_pages(prefix=prefix, start_after=start_after, page_size=num_keys)
    async with contextlib.aclosing(pages):
        async for page in pages:
            return list(page.keys)
    return []


def _places(prefix: str) -> list[str]:
    return [prefix + "".join(random.choices(ALPHABET, k=2)) for _ in range(NUM_PAGES // 2)]  # noqa: S311 - a sample


async def _read(executor: Executor, row: Mapping[str, Any], shapes: Shapes, timeout_seconds: float) -> _Table:
    async with executor.begin() as tx:
        await tx.fetch("SET TRANSACTION READ ONLY")
        await tx.fetch("SET LOCAL row_security = off")
        found = await tx.fetch(_sample_sql(row), timeout_seconds=timeout_seconds)
    readings: dict[tuple[object, ...], _Reading] = {}
    for values in found:
        for column, kind, value in zip(row["columns"], row["kinds"], values.values(), strict=True):
            for path, text in _texts(kind, value):
                for guess in shapes.guesses(text):
                    where = (column, path, guess.base, guess.prepend)
                    new = _Reading(column=column, guess=guess, is_array=kind == "array", path=path)
                    readings.setdefault(where, new).keys[guess.key] = None
    return _Table(row, len(found), list(readings.values()))


def _sample_sql(row: Mapping[str, Any]) -> str:
    """Read some rows; of a large table blocks by chance, and of one of which nothing is known, its first rows."""
    table = f"{quoted(row['schema'])}.{quoted(row['name'])}"
    columns = [quoted(column) for column in row["columns"]]
    texts = [f"left({column}::text, {MAX_TEXT}) AS column_{at}" for at, column in enumerate(columns)]
    num_rows = row["num_rows"]
    if num_rows > MANY_ROWS:
        table += f" TABLESAMPLE SYSTEM ({min(100, 500 * NUM_ROWS / num_rows):.6f})"
    # Where rows with a value are few, looking for them would read all of a table of unknown size.
    has_any = f"\nWHERE num_nonnulls({', '.join(columns)}) > 0" if num_rows >= 0 else ""
    return f"SELECT {', '.join(texts)}\nFROM {table}{has_any}\nLIMIT {NUM_ROWS}"


def _texts(kind: str, value: str | None) -> Iterator[tuple[str | None, str]]:
    if not value:
        return
    if kind == "text":
        yield None, value
    elif kind == "json":
        with contextlib.suppress(ValueError, RecursionError):  # cut off, or too deep
            yield from leaves(json.loads(value))
    else:
        yield from ((None, part) for part in elements(value))


def elements(text: str) -> list[str]:
    """Return the elements of an array as PostgreSQL writes it, those that are null left out."""
    parts = re.findall(r'"((?:[^"\\]|\\.)*)"|([^{},]+)', text)
    return [
        re.sub(r"\\(.)", r"\1", in_quotes) if in_quotes else bare
        for in_quotes, bare in parts
        if in_quotes or bare != "NULL"
    ]


async def _look_up(store: ObjectStore, shapes: Shapes, readings: Sequence[_Reading]) -> None:
    """Look for the objects that the readings would name; those with the most keys first."""
    num_left = NUM_ASKED_IN_ALL
    for reading in sorted(readings, key=lambda one: -len(one.keys)):
        seen = [key for key in reading.keys if key in shapes.keys]
        asked = [key for key in reading.keys if key not in shapes.keys][: min(NUM_ASKED, num_left)]
        num_left -= len(asked)
        there = [
            is_found
            for first in range(0, len(asked), NUM_AT_ONCE)
            for is_found in await gather_all(
                [is_there(store, key) for key in asked[first : first + NUM_AT_ONCE]]
            )
        ]
        reading.found = seen + [key for key, is_found in zip(asked, there, strict=True) if is_found]
        reading.num_asked = len(seen) + len(asked)


async def _propose(
    executor: Executor, tables: Sequence[_Table], keys: Sequence[str], timeout_seconds: float
) -> tuple[list[Proposal], set[str]]:
    proposals: list[Proposal] = []
    named: set[str] = set()
    for table in tables:
        for readings in _chosen(table.readings):
            source = _source(table, readings)
            found, index = await _named(executor, source, keys, timeout_seconds)
            seen = [key for reading in readings for key in reading.found]
            named |= set(found or ()) | set(seen)
            num_rows = table.row["num_rows"]
            proposals.append(
                Proposal(
                    source=source,
                    num_rows=None if num_rows < 0 else num_rows,
                    num_sampled=table.num_sampled,
                    num_values=len({key for reading in readings for key in reading.keys}),
                    num_asked=sum(reading.num_asked for reading in readings),
                    num_found=len(seen),
                    num_named=None if found is None else len(found),
                    examples=tuple(seen[:3]),
                    deleted_at=table.row["deleted_at"],
                    index=index,
                )
            )
    proposals.sort(key=lambda one: (-(one.num_named or 0), -one.num_found, one.source.name))
    return proposals, named


def _chosen(readings: Sequence[_Reading]) -> list[list[_Reading]]:
    """Choose of each column and path the readings that were seen to be right: all URLs together, else the best."""
    places: dict[tuple[str, str | None], list[_Reading]] = {}
    for reading in readings:
        if reading.found:
            places.setdefault((reading.column, reading.path), []).append(reading)
    chosen = []
    for found in places.values():
        urls = [reading for reading in found if reading.guess.base is not None]
        keys = [reading for reading in found if reading.guess.base is None]
        if keys:
            chosen.append([max(keys, key=lambda one: (len(one.found), -len(one.guess.prepend)))])
        if urls:
            chosen.append(urls)
    return chosen


def _source(table: _Table, readings: Sequence[_Reading]) -> ReferenceSource:
    first = readings[0]
    path = None if first.path is None else first.path.removeprefix("$").replace("[*]", "").strip(".")
    name = ".".join(part for part in (table.name, first.column, path) if part)
    bases = tuple(sorted({reading.guess.base for reading in readings if reading.guess.base}))
    return ReferenceSource(
        name=source_name(f"{name}.url" if bases else name),
        table=table.name,
        key=first.column,
        id=table.row["id"] or "id",
        array=first.is_array,
        json=first.path,
        url=bases,
        prepend=first.guess.prepend,
    )


async def _named(
    executor: Executor, source: ReferenceSource, keys: Sequence[str], timeout_seconds: float
) -> tuple[set[str] | None, str | None]:
    """Ask which of `keys` a source names, unless that would read a large table whole, and say what index it lacks."""
    statements = SourceStatements(source), SourceStatements(source, is_c_indexed=True)
    try:
        async with executor.begin() as tx:
            await tx.fetch("SET TRANSACTION READ ONLY")
            await tx.fetch("SET LOCAL row_security = off")
            page = await num_scanned(tx, *statements[0].range_sql("", None, NUM_ROWS), timeout_seconds)
            index = index_sql(source) if page > 0 else None
            for statement in statements:
                sql, params = statement.match_sql(keys, is_short=True)
                if await num_scanned(tx, sql, params, timeout_seconds) <= MAX_SCANNED:
                    rows = await tx.fetch(sql, params, timeout_seconds=timeout_seconds)
                    return {row["key"] for row in rows}, index
    except (DriverError, OperationTimeout) as error:
        if isinstance(error, DriverError) and error.retryable:
            raise
        return None, None
    return None, index
