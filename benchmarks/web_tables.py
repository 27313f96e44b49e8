"""
What the lists, searches and counts of the web page cost on a large table: server time of each, by one client.

    nice .venv/bin/python benchmarks/web_tables.py --rows 1000000 --directory ../millhand-web-tables

The directory keeps a PostgreSQL with one database for each size, so that the next run need not fill the table again. A
table of 10 million rows takes 8 GB and ten minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
from web_fill import fill

from millhand.core.clock import SystemClock
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.db.driver.protocol import Executor
from millhand.db.schema.migrator import Migrator, lines
from millhand.embedded import embedded_postgres
from millhand.engine.control import JobControl
from millhand.engine.store.job_list import JobFilters
from millhand.engine.store.job_search import JobSearch
from millhand.web.job_search import FoundPage, count_jobs, search_jobs
from millhand.web.search import parse_search
from millhand.web.search_conditions import job_search_of
from millhand.web.search_suggestions import suggest

SEARCHES = (
    "",
    "state:completed",
    "state:discarded",
    "state:available",
    "state:retryable",
    "state:retryable,discarded",
    "kind:kind_7",
    "kind:kind_60",
    "kind:kind_60 state:completed",
    "kind:kind_7 state:retryable",
    "queue:queue_3 state:completed",
    "args.order.id:4711",
    "args.account_id:17",
    "args.region:eu",
    "args.region:nowhere",
    'args:{"order":{"id":4711}}',
    "tag:vip",
    "tag:nowhere",
    "error:timeout state:retryable",
    "error:nowhere state:discarded",
    "client:worker-3 state:discarded",
    "periodic:nightly",
    "attempt:>5 state:retryable",
    "failed:<1h",
    "created:2h..1h",
    "nowhere",
    "user17@example.com",
)
COUNTS = ("", "queue:queue_3", "kind:kind_60", "kind:kind_7", "args.account_id:17")
LINES = ("ki", "kind:kind_6", "args.", "queue:")
LISTS = {
    "jobs.list, retryable, by id, oldest first": (JobFilters(states=[JobState.RETRYABLE]), False),
    "jobs.list, retryable, by id, newest first": (JobFilters(states=[JobState.RETRYABLE]), True),
    "jobs.list, discarded of a kind, by id": (
        JobFilters(states=[JobState.DISCARDED], kinds=["kind_7"]),
        True,
    ),
    "jobs.list, available, by id, oldest first": (JobFilters(states=[JobState.AVAILABLE]), False),
}


async def measure(url: str, rounds: int, only: str) -> None:
    driver = AsyncpgDriver(url)
    await driver.open()
    pool = driver.pool
    print(f"{'':50}   p50    p95  found    read  stop")
    for line in filter(re.compile(only).search, SEARCHES):
        await timed(f"search {line}", rounds, lambda line=line: found(pool, line))
    for line in COUNTS if not only else ():
        await timed(f"count {line}", rounds, lambda line=line: count_jobs(pool, searched(line)))
    for line in LINES if not only else ():
        await timed(f"suggest {line}", rounds, lambda line=line: suggest(pool, line, len(line)))
    jobs = JobControl(driver, SystemClock())
    for name, (filters, descending) in LISTS.items():
        await timed(name, rounds, lambda f=filters, d=descending: jobs.list(f, descending=d))
    await driver.close()


def searched(line: str) -> JobSearch:
    return job_search_of(parse_search(line), now=datetime.now(UTC), zone=UTC)


async def found(pool: Executor, line: str) -> FoundPage:
    return await search_jobs(pool, searched(line))


async def timed(name: str, rounds: int, run: Callable[[], Awaitable[object]]) -> None:
    result = await run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = await run()
        seconds.append(time.perf_counter() - start)
    p50, p95 = statistics.median(seconds), sorted(seconds)[int(len(seconds) * 0.95)]
    more = ""
    if isinstance(result, FoundPage):
        more = f"{len(result.jobs):>7}{result.num_read:>8,}  {result.stop}"
    print(f"{name:50}{p50 * 1e3:>6.1f}{p95 * 1e3:>7.1f}{more}", flush=True)


async def prepare(url: str, num_rows: int) -> None:
    """Fill the table, unless it is full."""
    driver = AsyncpgDriver(url)
    await driver.open()
    full = await driver.pool.fetch("SELECT to_regclass('millhand_web_table_is_full') IS NOT NULL AS is_full")
    if not full[0]["is_full"]:
        start = time.perf_counter()
        await driver.pool.execute_script("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        for line in lines():
            await Migrator(driver, line).up()
        connection = await asyncpg.connect(url, server_settings={"jit": PLANNER_SETTINGS["jit"]})
        await fill(driver.executor(connection), "", num_rows)
        await connection.execute("CREATE TABLE millhand_web_table_is_full ()")
        await connection.close()
        print(f"filled in {time.perf_counter() - start:.0f} s")
    [size] = await driver.pool.fetch("SELECT pg_size_pretty(pg_total_relation_size('river_job')) AS size")
    print(f"{num_rows:,} rows, {size['size']} with indexes")
    await driver.close()


async def database_url(url: str, num_rows: int) -> str:
    name = f"web_{num_rows}"
    connection = await asyncpg.connect(url)
    if not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name):
        await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return url.replace("/millhand?", f"/{name}?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--only", default="", help="a pattern of searches; without counts and suggestions")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with embedded_postgres(options.directory, {"max_wal_size": "8GB"}) as server:
        url = asyncio.run(database_url(server.url, options.rows))
        asyncio.run(prepare(url, options.rows))
        asyncio.run(measure(url, options.rounds, options.only))


if __name__ == "__main__":
    main()
