"""
The differences between a report and the rows: the keys to look at, in order, and counts of all others.

The same code makes them by DuckDB, and reads those that another engine has made with the same statement.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from millhand.core.orphans import OrphansConfig
from millhand.db.driver.protocol import Executor
from millhand.db.query import CopyOut
from millhand.orphans.inventory.difference_sql import (
    ALL_OBJECTS,
    ALL_ROWS,
    CANARY_PREFIX,
    COLUMNS,
    COUNTS,
    DUCKDB,
    KINDS,
    NO_OBJECT,
    NO_ROW,
    READY_ROWS,
    STAMP,
    WITH_OBJECT,
    CanaryKeys,
    Compared,
    difference_sql,
)
from millhand.orphans.inventory.duckdb_engine import Engine
from millhand.orphans.inventory.inventory_report import MAX_AGE, InventoryUnusable, Report
from millhand.orphans.sources.references import References

EXPORT_SECONDS = 6 * 3600.0  # a billion rows take less than an hour
ROW_COLUMNS = {"source": "VARCHAR", "key": "VARCHAR", "size": "BIGINT", "etag": "VARCHAR", "state": "VARCHAR"}
REMEDY = "run the statement of `millhand orphans inventory --sql` again"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenDifferences:
    """Differences that another engine has written. `created_at` is the time of their report."""

    created_at: datetime
    engine: Engine
    keys: CanaryKeys
    table: str

    async def read(self, canaries: Sequence[str]) -> Differences:
        """Return the differences; `canaries` as in `compare_report`. Raises: InventoryUnusable."""
        return await _read(self.engine, self.table, self.keys, canaries)


class DifferingKey(NamedTuple):
    """A key to look at, and the size of its object in the report; None if the report has no such object."""

    key: str
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """
    The keys of a file, in order, each once; and the counts of a run before it looks at them.

    `objects` and `bytes` are those of objects that do not differ, and `all_objects` counts all objects of the report.
    `wrong_canaries` are keys that came out as if only one side had them, although both did before.
    """

    all_objects: int
    bytes: int
    objects: int
    path: Path
    ready_rows: int
    rows_of: dict[str, int]
    wrong_canaries: tuple[str, ...]

    async def batches(
        self, *, after: str, up_to: str | None, size: int
    ) -> AsyncGenerator[list[DifferingKey], None]:
        """Yield the keys after `after` and up to `up_to`, so many at a time. Text is in the order of its UTF-8 bytes."""
        with self.path.open("rb") as file:
            keys = _keys(file, after, up_to)
            while batch := await asyncio.to_thread(lambda: list(itertools.islice(keys, size))):
                yield batch


def _keys(lines: Iterable[bytes], after: str, up_to: str | None) -> Iterator[DifferingKey]:
    for line in lines:
        one = json.loads(line)
        key = one["key"]
        if up_to is not None and key > up_to:
            return
        if key > after:
            yield DifferingKey(key, one["size"])


def scope_of(config: OrphansConfig, bucket: str) -> str:
    """Return a text that differs between buckets and between sets of sources."""
    return f"{config.fingerprint}-{bucket.partition('?')[0]}"


async def compare_report(
    engine: Engine,
    executor: Executor,
    references: References,
    report: Report,
    config: OrphansConfig,
    *,
    bucket: str,
    canaries: Sequence[str],
) -> Differences:
    """
    Export the rows, download the report, compare them, and return the differences.

    `canaries` are keys whose object and row agree now. Raises: InventoryUnusable; StoreError; DriverError.
    """
    keys = CanaryKeys.of(report.manifest.created_at, scope_of(config, bucket))
    files = await report.download(engine.directory)
    rows = await export_rows(engine, executor, references, config)
    compared = Compared(
        canaries=keys,
        columns=report.manifest.columns,
        excluded=config.exclude,
        has_etags=any(source.etag for source in config.sources),
        is_encoded=report.is_encoded,
        is_typed=True,
        prefix=config.prefix,
        report=report_sql(report, [str(file) for file in files]),
        root=report.root,
        rows=rows,
    )
    return await compare(engine, compared, canaries)


async def export_rows(
    engine: Engine, executor: Executor, references: References, config: OrphansConfig
) -> str:
    """Copy the rows of each source into a Parquet file, and return the FROM item of all. Raises: DriverError."""
    directory = engine.directory / "rows"
    directory.mkdir()
    for number, source in enumerate(references.statements):
        path = DUCKDB.literal(str(directory / f"{number}.parquet"))
        export = source.export_sql(*config.key_range)

        async def feed(write: Callable[[bytes], Awaitable[None]], export: str = export) -> None:
            await executor.copy_out(CopyOut("orphan_export", export, write, EXPORT_SECONDS))

        rows = rows_sql("/dev/stdin")
        await engine.run(
            [f"COPY (SELECT * FROM {rows}) TO {path} (FORMAT parquet, COMPRESSION zstd)"], feed=feed
        )
    return f"read_parquet({DUCKDB.literal(str(directory / '*.parquet'))})"


async def compare(engine: Engine, compared: Compared, canaries: Sequence[str]) -> Differences:
    """Run the statement by DuckDB, and return the differences. Raises: InventoryUnusable."""
    path = DUCKDB.literal(str(engine.directory / "differences.parquet"))
    statement = difference_sql(compared, DUCKDB)
    await engine.run([f"COPY (\n{statement}) TO {path} (FORMAT parquet, COMPRESSION zstd)"])
    return await _read(engine, f"read_parquet({path})", compared.canaries, canaries)


async def open_differences(
    engine: Engine, path: Path, config: OrphansConfig, *, bucket: str, now: datetime
) -> WrittenDifferences:
    """
    Open the differences that another engine has written: a CSV file with a header, or Parquet, or a directory of either.

    Raises: InventoryUnusable.
    """
    table = _file_sql(path)
    [found] = await engine.run(
        [f"SELECT DISTINCT key FROM {table} WHERE starts_with(key, {DUCKDB.literal(CANARY_PREFIX)}) LIMIT 9"]
    )
    created_at, keys = _canary_keys(str(path), [key for (key,) in found], scope_of(config, bucket), now)
    return WrittenDifferences(created_at=created_at, engine=engine, keys=keys, table=table)


def report_sql(report: Report, files: Sequence[str]) -> str:
    """Return the FROM item of a report's files for DuckDB, with the names of Parquet columns."""
    if not files:  # of an empty bucket
        return f"(SELECT {', '.join(f'NULL::VARCHAR AS {name}' for name in report.column_names)} WHERE false)"
    listed = ", ".join(map(DUCKDB.literal, files))
    if not report.is_encoded:
        return f"read_parquet([{listed}])"
    columns = ", ".join(f"{DUCKDB.literal(name)}: 'VARCHAR'" for name in report.column_names)
    return (
        f"read_csv([{listed}], header = false, compression = 'gzip', delim = ',', quote = '\"', escape = '\"', "
        f"auto_detect = false, columns = {{{columns}}})"
    )


def rows_sql(files: str) -> str:
    """Return the FROM item of exported rows in CSV for DuckDB."""
    columns = ", ".join(f"{name}: {DUCKDB.literal(kind)}" for name, kind in ROW_COLUMNS.items())
    return (
        f"read_csv({DUCKDB.literal(files)}, header = false, delim = ',', quote = '\"', escape = '\"', "
        f"new_line = '\\n', auto_detect = false, allow_quoted_nulls = false, parallel = false, columns = {{{columns}}})"
    )


async def _read(engine: Engine, table: str, keys: CanaryKeys, canaries: Sequence[str]) -> Differences:
    """Write the keys of a table of differences into a file, in order, and check its canaries."""
    path = engine.directory / "keys.json"
    quoted = DUCKDB.literal
    kinds, with_object, one_sided, counts = (
        f"({', '.join(map(quoted, names))})" for names in (KINDS, WITH_OBJECT, (NO_ROW, NO_OBJECT), COUNTS)
    )
    is_made_up = f"starts_with(key, {quoted(CANARY_PREFIX)})"
    listed = f"[{', '.join(map(quoted, canaries))}]::VARCHAR[]"
    columns = ", ".join(COLUMNS)
    unknown_kind = f"kind IS NULL OR (kind NOT IN {kinds} AND kind NOT IN {counts})"
    differing_sql = (
        f"SELECT count(*), coalesce(sum(size), 0)::BIGINT FROM (SELECT key, max(size) AS size FROM {table} "
        f"WHERE kind IN {with_object} AND NOT {is_made_up} GROUP BY key)"
    )
    counted_sql = (
        f"SELECT kind, source, sum(num)::BIGINT, sum(size)::BIGINT FROM {table} WHERE kind IN {counts} "
        "GROUP BY kind, source"
    )
    keys_sql = (
        f"SELECT key, max(CASE WHEN kind IN {with_object} THEN size END) AS size FROM {table} "
        f"WHERE kind IN {kinds} AND NOT {is_made_up} GROUP BY key ORDER BY key"
    )
    unknown, made_up, wrong, (differing,), counted, wholes, _ = await engine.run(
        [
            f"SELECT DISTINCT kind FROM (SELECT {columns} FROM {table}) WHERE {unknown_kind} LIMIT 1",
            f"SELECT DISTINCT key FROM {table} WHERE {is_made_up}",
            # A canary may have a row of another size, or a second row in another state.
            f"SELECT DISTINCT key FROM {table} WHERE kind IN {one_sided} AND list_contains({listed}, key) ORDER BY key",
            differing_sql,
            counted_sql,
            f"SELECT num::BIGINT, size::BIGINT FROM {table} WHERE kind = {quoted(ALL_OBJECTS)} LIMIT 9",
            f"COPY ({keys_sql}) TO {quoted(str(path))} (FORMAT json)",
        ]
    )
    if unknown:
        raise InventoryUnusable(
            engine.subject, f"must have differences of the kinds {', '.join(KINDS)}", unknown[0][0], REMEDY
        )
    _check_canaries(engine.subject, keys, {key for (key,) in made_up})
    if len(wholes) != 1 or None in wholes[0]:  # lost, or added twice
        rule = f"must have one row of the kind {ALL_OBJECTS}, with num and size"
        raise InventoryUnusable(engine.subject, rule, wholes or "none", REMEDY)
    [(num_objects, num_bytes)] = wholes
    figures = {(kind, source): num for kind, source, num, _ in counted}
    return Differences(
        all_objects=num_objects,
        bytes=max(0, num_bytes - differing[1]),
        objects=max(0, num_objects - differing[0]),
        path=path,
        ready_rows=sum(num for (kind, _), num in figures.items() if kind == READY_ROWS),
        rows_of={source: num for (kind, source), num in figures.items() if kind == ALL_ROWS},
        wrong_canaries=tuple(key for (key,) in wrong),
    )


def _check_canaries(subject: str, keys: CanaryKeys, found: set[str]) -> None:
    """Raise InventoryUnusable unless exactly the keys of one side are among the differences."""
    if keys.both in found:
        rule = "must not have a difference for a key that the statement put on both sides"
        raise InventoryUnusable(subject, rule, keys.both, REMEDY)
    for side, key in (("report", keys.object_only), ("rows", keys.row_only)):
        if key not in found:
            rule = f"must have a difference for the key that the statement put into the {side} only"
            raise InventoryUnusable(subject, rule, "none", REMEDY)


def _canary_keys(
    subject: str, found: Sequence[str], scope: str, now: datetime
) -> tuple[datetime, CanaryKeys]:
    """Return the time of the report and the canaries of a file of differences. The report must not be too old."""
    stamps = {key.removeprefix(CANARY_PREFIX).partition("/")[0] for key in found}
    if len(stamps) != 1:
        rule = "must be the differences of one report, with the two keys that the statement makes up"
        raise InventoryUnusable(subject, rule, sorted(stamps) or "none", REMEDY)
    [stamp] = stamps
    created_at = datetime.strptime(f"{stamp}+0000", f"{STAMP}%z")
    keys = CanaryKeys.of(created_at, scope)
    if not {keys.object_only, keys.row_only, keys.both} & set(found):
        rule = f"must be of the bucket and the sources {scope!r}"
        raise InventoryUnusable(subject, rule, found[0], REMEDY)
    if now - created_at > MAX_AGE:
        rule = f"must be of a report that is not older than {MAX_AGE.days} days"
        raise InventoryUnusable(subject, rule, stamp, "run the statement for a newer report")
    return created_at, keys


def _file_sql(path: Path) -> str:
    """Return the FROM item of a file of differences. Raises: InventoryUnusable."""
    subject = str(path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if not file.name.startswith(("_", "."))]
    listed = ", ".join(DUCKDB.literal(str(file)) for file in files)
    if not files or not all(file.exists() for file in files):
        raise InventoryUnusable(
            subject, "must be a file of differences, or a directory of such files", "none", REMEDY
        )
    if all(file.suffix == ".parquet" for file in files):
        return f"read_parquet([{listed}])"
    columns = "kind: 'VARCHAR', source: 'VARCHAR', key: 'VARCHAR', num: 'BIGINT', size: 'BIGINT'"
    return (
        f"read_csv([{listed}], header = true, delim = ',', quote = '\"', escape = '\"', auto_detect = false, "
        f"allow_quoted_nulls = false, parallel = false, columns = {{{columns}}})"
    )
