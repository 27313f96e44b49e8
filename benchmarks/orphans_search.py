"""
Measure the search for undeclared references: all texts of a table, for many keys at once.

    python benchmarks/orphans_search.py --rows 1000000 --columns 20 --keys 10000

The table has the usual texts: URLs of other keys, UUIDs, sentences, JSON with escapes, and empty cells. One row of a
thousand names one of the keys. The script prints the duration of the search, CPU times, and the peak of memory.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator, lines
from millhand.embedded import embedded_postgres
from millhand.orphans import Mode, OrphansConfig, ReferenceSource, reconcile
from millhand.orphans.ledger import database_facts
from millhand.storage import open_store

SCHEMA = "bench_search"
FILL_SECONDS = 7_200.0
# Texts of row n and column c; md5 makes them differ.
TEXTS = (
    "'https://cdn.example.com/uploads/2026/' || md5(n || 'a{c}')::uuid || '.jpg?v=' || n",
    "md5(n || 'b{c}')::uuid::text",
    "'The ' || n || ' quick brown foxes jump over ' || n % 97 || ' lazy dogs, see https://example.com/' || n % 1000",
    "'{{\"name\": \"caf\\u00e9 ' || n || '\", \"url\": \"https:\\/\\/example.com\\/' || md5(n || 'c{c}') || '\"}}'",
    "NULL",
)


def key_of(number: int) -> str:
    return f"uploads/2026/{number:08x}-5c1a-4b7e-9d0e-{number * 7919 % 2**40:012x}.jpg"


async def fill(driver: AsyncpgDriver, options: argparse.Namespace) -> int:
    """Create the ledger and the tables, and return how many bytes the texts take."""
    for line in lines():
        await Migrator(driver, line).up()
    run = driver.pool.execute_script
    texts = [TEXTS[column % len(TEXTS)].format(c=column) for column in range(options.columns)]
    named = "CASE WHEN n % 1000 = 7 THEN 'see ' || keys.key END"
    columns = ", ".join(f"({text}) AS c{column}" for column, text in enumerate(texts))
    await run("CREATE TABLE bench_keys (place bigint PRIMARY KEY, key text)")
    keys = [key_of(number) for number in range(options.keys)]
    await driver.pool.fetch(
        "INSERT INTO bench_keys SELECT o - 1, key FROM unnest($1::text[]) WITH ORDINALITY AS one (key, o)",
        [keys],
    )
    await run(
        f"CREATE TABLE bench_texts AS SELECT {columns}, {named} AS named FROM generate_series(1, {options.rows}) AS n "
        f"LEFT JOIN bench_keys AS keys ON keys.place = (n / 1000) % {options.keys}",
        timeout_seconds=FILL_SECONDS,
    )
    await run(
        "DROP TABLE bench_keys; CREATE TABLE bench_live (key text); INSERT INTO bench_live VALUES ('live')"
    )
    await run("VACUUM (ANALYZE, FREEZE) bench_texts", timeout_seconds=FILL_SECONDS)
    rows = await driver.pool.fetch("SELECT pg_total_relation_size('bench_texts') AS size")
    return int(rows[0]["size"])


async def measure(url: str, directory: Path, options: argparse.Namespace) -> None:
    driver = AsyncpgDriver(f"{url}{'&' if '?' in url else '?'}search_path={SCHEMA}", SCHEMA)
    await driver.open()
    await driver.pool.fetch(f"CREATE SCHEMA {SCHEMA}")
    size = await fill(driver, options)
    store = open_store(str(directory / "bucket"), create=True)
    for key in ("live", *map(key_of, range(options.keys))):
        await store.put(key, b"x")
    config = OrphansConfig(
        sources=(ReferenceSource(name="live", table="bench_live"),),
        mode=Mode.QUARANTINE,
        max_share=1.0,
        max_objects=options.keys,
        max_keys_per_second=10**6,
        mentions=("bench_texts",),
        search_timeout=timedelta(hours=6),
    )
    now = (await driver.pool.run(database_facts())).now
    await reconcile(driver.pool, store, config, now=now + timedelta(hours=2))
    began, cpu_before = time.monotonic(), time.process_time()
    report = await reconcile(driver.pool, store, config, now=now + timedelta(days=8))
    whole, cpu = time.monotonic() - began, time.process_time() - cpu_before
    found = await driver.pool.fetch("SELECT search_seconds AS seconds FROM millhand_orphan_binding")
    seconds = found[0]["seconds"]
    num_cells = options.rows * (options.columns + 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{options.rows:,} rows, {options.columns + 1} text columns, {size / 1e6:,.0f} MB, {options.keys:,} keys"
    )
    print(f"search {seconds:,.1f} s: {num_cells / seconds:,.0f} cells/s, {size / seconds / 1e6:,.0f} MB/s")
    print(f"whole run {whole:,.1f} s, of which CPU of this process {cpu:,.1f} s; peak memory {peak:,.0f} MiB")
    print(
        f"searched {report.searched:,}, kept {report.kept:,}, quarantined {report.quarantined:,}, {report.state}"
    )
    await driver.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--keys", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # the server of root runs as another user
        with embedded_postgres(Path(name) / "postgres") as server:
            asyncio.run(measure(server.url, Path(name), options))


if __name__ == "__main__":
    main()
