"""
Find the columns that reference objects of a bucket: sample their values, and look for the objects in the store.

Rule 1: discovery writes nothing and never scans a large table. It samples blocks of it, each table in a read-only
        transaction that ends in seconds.
Rule 2: it proposes a column only if objects exist under keys that the column names.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.orphans import ReferenceSource, source_name
from millhand.db.driver.protocol import Executor
from millhand.orphans.discovery.guess import Guess, KeyShapes, document_texts
from millhand.orphans.scan.canary import random_places
from millhand.orphans.scan.lookup import existing_keys
from millhand.orphans.sources.key_sql import index_sql, quoted
from millhand.orphans.sources.pg_catalog import ColumnKind, TextTable, text_tables
from millhand.orphans.sources.query_plan import num_rows_scanned
from millhand.orphans.sources.statements import SourceStatements
from millhand.storage import ObjectStore

LAST = "\U0010ffff"  # after every other character
NUM_PAGES = 40
FIRST_PAGE = 1_000  # keys; a small bucket is read in full
NEXT_PAGE = 50
NUM_ROWS = 1_000  # of each table
MANY_ROWS = 20 * NUM_ROWS  # larger tables are sampled by blocks
MAX_TEXT = 20_000  # characters of a value; longer JSON cannot be parsed
MAX_CHECKED = 20  # keys that are looked up in the store for each reading of a column
MAX_CHECKED_TOTAL = 2_000
NUM_CONCURRENT = 16
MAX_SCANNED = 1_000_000  # rows that a search for the sampled keys may scan

OURS = re.compile("(river|millhand)_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """
    A source that names existing objects, and the evidence for it.

    In `num_sampled` rows, `num_values` values fit the keys of the bucket. Of those, `num_checked` were looked up and
    `num_found` exist. The source names `num_named` of the sampled keys; None if the search would scan a large table.
    `num_rows` is the estimate of the last ANALYZE, None without one. `index` is the index that the source lacks.
    """

    source: ReferenceSource
    num_rows: int | None
    num_sampled: int
    num_values: int
    num_checked: int
    num_found: int
    num_named: int | None
    examples: tuple[str, ...]
    deleted_at: str | None
    index: str | None

    @property
    def is_small(self) -> bool:
        """Whether the table is so small that it needs no index."""
        return self.num_sampled < NUM_ROWS if self.num_rows is None else self.num_rows <= MANY_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """The proposals, best first; sampled keys that none of them names; and tables that could not be read, with the error."""

    num_keys: int
    num_tables: int
    num_columns: int
    proposals: tuple[Proposal, ...]
    num_unnamed: int
    unnamed: tuple[str, ...]
    unread: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class _Reading:
    """One way to read keys from a column, and the keys that it yields."""

    column: str
    guess: Guess
    is_array: bool
    path: str | None
    keys: dict[str, None] = field(default_factory=dict)
    num_checked: int = 0
    found: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _SampledTable:
    """A table, the size of its sample, and the ways to read its columns."""

    table: TextTable
    num_sampled: int
    readings: list[_Reading]


async def discover(
    executor: Executor,
    store: ObjectStore,
    *,
    prefix: str = "",
    table_timeout: timedelta = timedelta(seconds=5),
) -> Discovery:
    """Propose sources from a sample of the database and the bucket. `table_timeout` applies to each query of one table."""
    keys = await sample_keys(store, prefix)
    shapes = KeyShapes.of(keys)
    found = [_without_other_columns(one) for one in await text_tables(executor)]
    tables = [table for table in found if table is not None]
    samples: list[_SampledTable] = []
    unread: dict[str, str] = {}
    for table in tables:
        try:
            samples.append(await _sample_table(executor, table, shapes, table_timeout.total_seconds()))
        except (DriverError, OperationTimeout) as error:
            if isinstance(error, DriverError) and error.retryable:
                raise
            unread[table.qualified_name] = str(error)
    await _check_objects(store, shapes, [reading for sample in samples for reading in sample.readings])
    proposals, named = await _propose(executor, samples, keys, table_timeout.total_seconds())
    unnamed = [key for key in keys if key not in named]
    return Discovery(
        num_keys=len(keys),
        num_tables=len(tables),
        num_columns=sum(len(table.columns) for table in tables),
        proposals=tuple(proposals),
        num_unnamed=len(unnamed),
        unnamed=tuple(unnamed[:5]),
        unread=unread,
    )


async def sample_keys(store: ObjectStore, prefix: str = "") -> list[str]:
    """Return some keys of a bucket: from its beginning, from each top-level directory, and from random places."""
    page = await _page(store, prefix, "", FIRST_PAGE)
    keys = dict.fromkeys(page)
    if len(page) < FIRST_PAGE:
        return page
    start, random_starts = "", random_places(prefix, NUM_PAGES // 2)
    for _ in range(NUM_PAGES):
        page = await _page(store, prefix, start, NEXT_PAGE)
        keys |= dict.fromkeys(page)
        head, slash, _ = (page[-1] if page else "").removeprefix(prefix).partition("/")
        if slash:
            start = f"{prefix}{head}/{LAST}"
        elif random_starts:
            start = random_starts.pop()
        else:
            break
    return list(keys)


async def _page(store: ObjectStore, prefix: str, start_after: str, num_keys: int) -> list[str]:
    pages = store.list_pages(prefix=prefix, start_after=start_after, page_size=num_keys)
    async with contextlib.aclosing(pages):
        async for page in pages:
            return list(page.keys)
    return []


def _without_other_columns(table: TextTable) -> TextTable | None:
    """Return a table with the columns that discovery can read; None for one that it does not read."""
    if table.is_foreign or table.is_partition or OURS.match(table.name):
        return None
    columns = {name: kind for name, kind in table.columns.items() if kind != "other"}
    num_rows = max(0, table.num_rows) if table.is_partitioned else table.num_rows
    return replace(table, columns=columns, num_rows=num_rows) if columns else None


async def _sample_table(
    executor: Executor, table: TextTable, shapes: KeyShapes, timeout_seconds: float
) -> _SampledTable:
    async with _read_only(executor) as tx:
        rows = await tx.fetch(_sample_sql(table), timeout_seconds=timeout_seconds)
    readings: dict[tuple[object, ...], _Reading] = {}
    for row in rows:
        for (column, kind), value in zip(table.columns.items(), row.values(), strict=True):
            for path, text in _texts(kind, value):
                for guess in shapes.guesses(text):
                    identity = (column, path, guess.base, guess.prepend)
                    is_array = kind == "array"
                    new = _Reading(column=column, guess=guess, is_array=is_array, path=path)
                    readings.setdefault(identity, new).keys[guess.key] = None
    return _SampledTable(table, len(rows), list(readings.values()))


@contextlib.asynccontextmanager
async def _read_only(executor: Executor) -> AsyncIterator[Executor]:
    """Begin a read-only transaction in which row-level security is an error, not a filter."""
    async with executor.begin() as tx:
        await tx.fetch("SET TRANSACTION READ ONLY")
        await tx.fetch("SET LOCAL row_security = off")
        yield tx


def _sample_sql(table: TextTable) -> str:
    """Return a query for some rows: random blocks of a large table, the first rows of one without an estimate."""
    from_sql = f"{quoted(table.schema)}.{quoted(table.name)}"
    columns = [quoted(column) for column in table.columns]
    texts = [f"left({column}::text, {MAX_TEXT}) AS column_{at}" for at, column in enumerate(columns)]
    if table.num_rows > MANY_ROWS:
        from_sql += f" TABLESAMPLE SYSTEM ({min(100, 500 * NUM_ROWS / table.num_rows):.6f})"
    # In a table of unknown size, a search for the few rows with a value might scan it all.
    has_any = f"\nWHERE num_nonnulls({', '.join(columns)}) > 0" if table.num_rows >= 0 else ""
    return f"SELECT {', '.join(texts)}\nFROM {from_sql}{has_any}\nLIMIT {NUM_ROWS}"


def _texts(kind: ColumnKind, value: str | None) -> Iterable[tuple[str | None, str]]:
    """Return the texts in a value, each with its JSON path."""
    if not value:
        return ()
    if kind == "text":
        return ((None, value),)
    if kind == "array":
        return [(None, element) for element in array_elements(value)]
    try:
        return list(document_texts(json.loads(value)))
    except (ValueError, RecursionError):  # cut off, or nested too deeply
        return ()


def array_elements(text: str) -> list[str]:
    """Return the elements of an array as PostgreSQL writes it, without nulls."""
    parts = re.findall(r'"((?:[^"\\]|\\.)*)"|([^{},]+)', text)
    return [
        re.sub(r"\\(.)", r"\1", in_quotes) if in_quotes else bare
        for in_quotes, bare in parts
        if in_quotes or bare != "NULL"
    ]


async def _check_objects(store: ObjectStore, shapes: KeyShapes, readings: Sequence[_Reading]) -> None:
    """Check which keys of the readings have an object. Readings with the most keys come first."""
    num_left = MAX_CHECKED_TOTAL
    for reading in sorted(readings, key=lambda one: -len(one.keys)):
        known = [key for key in reading.keys if key in shapes.keys]
        checked = [key for key in reading.keys if key not in shapes.keys][: min(MAX_CHECKED, num_left)]
        num_left -= len(checked)
        existing = await existing_keys(store, checked, at_once=NUM_CONCURRENT)
        reading.found = known + [key for key in checked if key in existing]
        reading.num_checked = len(known) + len(checked)


async def _propose(
    executor: Executor, samples: Sequence[_SampledTable], keys: Sequence[str], timeout_seconds: float
) -> tuple[list[Proposal], set[str]]:
    """Return the proposals, best first, and all keys that they name."""
    proposals: list[Proposal] = []
    named: set[str] = set()
    for sample in samples:
        for readings in _confirmed(sample.readings):
            source = _source(sample.table, readings)
            matched, index = await _match_keys(executor, source, keys, timeout_seconds)
            found = [key for reading in readings for key in reading.found]
            named |= set(matched or ()) | set(found)
            proposals.append(
                Proposal(
                    source=source,
                    num_rows=None if sample.table.num_rows < 0 else sample.table.num_rows,
                    num_sampled=sample.num_sampled,
                    num_values=len({key for reading in readings for key in reading.keys}),
                    num_checked=sum(reading.num_checked for reading in readings),
                    num_found=len(found),
                    num_named=None if matched is None else len(matched),
                    examples=tuple(found[:3]),
                    deleted_at=sample.table.deleted_at,
                    index=index,
                )
            )
    proposals.sort(key=lambda one: (-(one.num_named or 0), -one.num_found, one.source.name))
    return proposals, named


def _confirmed(readings: Sequence[_Reading]) -> list[list[_Reading]]:
    """Return the readings that found objects, grouped into sources: all URLs of a place together, else the best reading."""
    by_place: dict[tuple[str, str | None], list[_Reading]] = {}
    for reading in readings:
        if reading.found:
            by_place.setdefault((reading.column, reading.path), []).append(reading)
    confirmed = []
    for found in by_place.values():
        urls = [reading for reading in found if reading.guess.base is not None]
        keys = [reading for reading in found if reading.guess.base is None]
        if keys:
            confirmed.append([max(keys, key=lambda one: (len(one.found), -len(one.guess.prepend)))])
        if urls:
            confirmed.append(urls)
    return confirmed


def _source(table: TextTable, readings: Sequence[_Reading]) -> ReferenceSource:
    first = readings[0]
    table_name = table.name if table.is_visible else table.qualified_name
    path = None if first.path is None else first.path.removeprefix("$").replace("[*]", "").strip(".")
    name = ".".join(part for part in (table_name, first.column, path) if part)
    bases = tuple(sorted({reading.guess.base for reading in readings if reading.guess.base}))
    return ReferenceSource(
        name=source_name(f"{name}.url" if bases else name),
        table=table_name,
        key=first.column,
        id=table.id or "id",
        array=first.is_array,
        json=first.path,
        url=bases,
        prepend=first.guess.prepend,
    )


async def _match_keys(
    executor: Executor, source: ReferenceSource, keys: Sequence[str], timeout_seconds: float
) -> tuple[set[str] | None, str | None]:
    """Return which of `keys` a source names, None if that would scan a large table; and the index that it lacks."""
    statements = SourceStatements(source), SourceStatements(source, is_c_indexed=True)
    try:
        async with _read_only(executor) as tx:
            page = await num_rows_scanned(tx, *statements[0].range_sql("", None, NUM_ROWS), timeout_seconds)
            index = index_sql(source) if page > 0 else None
            for statement in statements:
                sql, params = statement.match_sql(keys, keys_only=True)
                if await num_rows_scanned(tx, sql, params, timeout_seconds) <= MAX_SCANNED:
                    rows = await tx.fetch(sql, params, timeout_seconds=timeout_seconds)
                    return {row["key"] for row in rows}, index
    except (DriverError, OperationTimeout) as error:
        if isinstance(error, DriverError) and error.retryable:
            raise
        return None, None
    return None, index
