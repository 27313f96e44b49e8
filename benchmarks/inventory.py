"""
Measure the comparison of an S3 Inventory with the rows, by DuckDB in a process of its own.

    python benchmarks/inventory.py --objects 10000000 --memory 1GB --directory DIR

The report and the rows are Parquet, in the order of hashes, so neither is sorted by key. One object of 10,007 has no row,
one row of 10,009 has no object, and one row of 100,003 has another size. DIR keeps them for the next call with the same
number.
With `--export`, the rows are in a table of PostgreSQL, and their export is measured too.

The script prints the seconds, the CPU time and the peak memory of DuckDB's process, and the largest size of its spill files.
It fails if another number of keys comes out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from millhand.core.orphans import OrphansConfig, ReferenceSource
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.embedded import embedded_postgres
from millhand.orphans.inventory.difference_sql import CanaryKeys, Compared
from millhand.orphans.inventory.differences import Differences, compare, export_rows
from millhand.orphans.inventory.duckdb_engine import Engine, opened_engine
from millhand.orphans.sources.references import open_references

FILL_SECONDS = 3_600.0
POLL_SECONDS = 0.05
NO_ROW, NO_OBJECT, OTHER_SIZE = 10_007, 10_009, 100_003  # primes, so that each difference has keys of its own
KEY = "'media/' || substr(md5({0}::text), 1, 2) || '/' || md5({0}::text) || '.jpg'"
COLUMNS = ("bucket", "key", "size", "lastmodifieddate", "etag")


@dataclass
class Measured:
    """What one step took. `spill` is the largest number of bytes of its files."""

    name: str
    seconds: float = 0.0
    cpu: float = 0.0
    spill: int = 0
    started: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        return f"{self.name}: {self.seconds:,.1f} s, CPU {self.cpu:,.1f} s, spill {self.spill / 1e9:,.2f} GB"


def fill(directory: Path, num_objects: int) -> None:
    """Write a report and the rows of so many objects, unless they are there."""
    files = {
        "report": f"SELECT 'b' AS bucket, {KEY.format('n')} AS key, n % 100000 AS size, TIMESTAMP '2026-11-20' AS "
        f"last_modified_date, md5(n::text) AS e_tag FROM range({num_objects}) AS one (n) WHERE n % {NO_OBJECT} <> 7",
        "rows": f"SELECT 'media' AS source, {KEY.format('n')} AS key, CASE WHEN n % {OTHER_SIZE} = 7 THEN -1 ELSE "
        f"n % 100000 END AS size, NULL::VARCHAR AS etag, 'ready' AS state FROM range({num_objects}) AS one (n) "
        f"WHERE n % {NO_ROW} <> 5",
    }
    for name, sql in files.items():
        path = directory / f"{name}-{num_objects}.parquet"
        if not path.exists():
            with duckdb.connect() as connection:
                connection.execute("SET preserve_insertion_order = false; SET memory_limit = '1GB'")
                connection.execute(f"COPY ({sql}) TO '{path}.new' (FORMAT parquet, COMPRESSION zstd)")
            Path(f"{path}.new").rename(path)


def expected_keys(num_objects: int) -> int:
    """Return how many keys differ."""
    parts = (NO_ROW, 5), (NO_OBJECT, 7), (OTHER_SIZE, 7)
    members = [set(range(rest, num_objects, step)) for step, rest in parts]
    return len(members[0] | members[1] | members[2])


@contextlib.asynccontextmanager
async def measured(name: str, engine: Engine) -> AsyncIterator[Measured]:
    """Measure what the block does by the engine's processes."""
    one = Measured(name)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    watching = asyncio.ensure_future(_watch(one, engine.directory / "spill"))
    try:
        yield one
    finally:
        watching.cancel()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        one.seconds = time.monotonic() - one.started
        one.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def _watch(one: Measured, directory: Path) -> None:
    while True:
        one.spill = max(one.spill, _size(directory))
        await asyncio.sleep(POLL_SECONDS)


def _size(directory: Path) -> int:
    size = 0
    for path in directory.glob("*"):
        with contextlib.suppress(OSError):  # it is deleted meanwhile
            size += path.stat().st_size
    return size


async def export(engine: Engine, num_objects: int, url: str) -> str:
    """Fill a table, and export it as a run does; return the FROM item of the rows."""
    driver = AsyncpgDriver(url, "public")
    await driver.open()
    try:
        await driver.pool.execute_script(
            f"CREATE TABLE media AS SELECT {KEY.format('n')} AS key, CASE WHEN n % {OTHER_SIZE} = 7 THEN -1 ELSE n % 100000 "
            f"END::bigint AS size FROM generate_series(0, {num_objects} - 1) AS n WHERE n % {NO_ROW} <> 5",
            timeout_seconds=FILL_SECONDS,
        )
        config = OrphansConfig(sources=(ReferenceSource(name="media", table="media", size="size"),))
        references = await open_references(driver.pool, config)
        async with measured("export", engine) as one:
            rows = await export_rows(engine, driver.pool, references, config)
    finally:
        await driver.close()
    print(one.line())
    return rows


async def run(directory: Path, options: argparse.Namespace) -> None:
    """Compare once, and print what it took."""
    fill(directory, options.objects)
    files = {
        name: f"read_parquet('{directory}/{name}-{options.objects}.parquet')" for name in ("report", "rows")
    }
    with opened_engine("benchmark", memory=options.memory, parent=str(directory)) as engine:
        rows = files["rows"]
        if options.export:
            with embedded_postgres(directory / "postgres") as server:
                rows = await export(engine, options.objects, server.url)
        compared = Compared(
            canaries=CanaryKeys.of(datetime(2026, 11, 20, tzinfo=UTC), "benchmark"),
            columns=COLUMNS,
            excluded=(),
            has_etags=False,
            is_encoded=False,
            is_typed=True,
            prefix="",
            report=files["report"],
            root="",
            rows=rows,
        )
        async with measured("comparison", engine) as one:
            found = await compare(engine, compared, ())
        report(options, one, found)


def report(options: argparse.Namespace, one: Measured, found: Differences) -> None:
    """Print what a comparison took, and check its number of keys."""
    with found.path.open("rb") as file:
        num_keys = sum(1 for _ in file)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(one.line())
    print(
        f"{options.objects:,} objects, {num_keys:,} differing keys, {options.memory}: peak memory {peak:,.0f} MiB"
    )
    if num_keys != expected_keys(options.objects):
        raise SystemExit(f"{expected_keys(options.objects):,} keys must differ, got {num_keys:,}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--export", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = options.directory or Path(name)
        Path(name).chmod(0o755)  # the server of root runs as another user
        asyncio.run(run(directory, options))


if __name__ == "__main__":
    main()
