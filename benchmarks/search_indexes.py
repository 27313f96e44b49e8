"""
What River's two search indexes cost: inserts and drains of no-op jobs with and without them, in turns.

    .venv/bin/python benchmarks/search_indexes.py --jobs 50000 --rounds 5 --write benchmarks/results.md

DATABASE_URL names the server, which nothing else should use; without it, an embedded one is started.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
from contender import about_machine, log, server_url
from document import put, table
from measurements import DRAIN_SECONDS
from systems import MILLHAND
from worker_process import WorkOrder, worker_process

from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.bench.rates import insert_bulk
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema import search_indexes

MARK = "<!-- search index figures: {} by benchmarks/search_indexes.py -->"

BUSY = "Other programs ran on the machine: compare only the ratios and the bytes."


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Rates in jobs a second, and bytes of write-ahead log for a job; `vacuum_wal` is of a VACUUM between the two."""

    insert_rate: float
    insert_wal: float
    vacuum_wal: float
    drain_rate: float
    drain_wal: float


NAMES = {
    "insert_rate": "`insert_many`, jobs/s",
    "insert_wal": "`insert_many`, bytes of log a job",
    "vacuum_wal": "`VACUUM` after it, bytes of log a job",
    "drain_rate": "drain, jobs/s",
    "drain_wal": "drain, bytes of log a job",
}


async def position(schema: BenchSchema) -> int:
    """Return how many bytes of write-ahead log the server has written."""
    rows = await schema.pool.fetch("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint AS bytes")
    return int(rows[0]["bytes"])


async def measure(schema: BenchSchema, num_jobs: int, slots: int, *, has_indexes: bool) -> Cost:
    await schema.empty()
    driver = AsyncpgDriver(schema.url, schema.name, pool_size=1)
    await driver.open()
    for step in await search_indexes.plan(driver, is_wanted=has_indexes):
        await search_indexes.apply(driver, step)
    await driver.close()
    places = [await position(schema)]
    async with MILLHAND.inserter(schema.url, schema.name) as inserter:
        insert_rate = await insert_bulk(inserter, num_jobs)
    places.append(await position(schema))
    await schema.settle(with_checkpoint=False)
    places.append(await position(schema))
    order = WorkOrder(
        num_jobs=num_jobs, schema=schema.name, slots=slots, system=MILLHAND.name, url=schema.url
    )
    async with worker_process(order) as worker:
        report = await worker.wait_report(DRAIN_SECONDS)
    places.append(await position(schema))
    await schema.audit(num_jobs)
    insert_wal, vacuum_wal, drain_wal = (
        (after - before) / num_jobs for before, after in itertools.pairwise(places)
    )
    return Cost(
        insert_rate=insert_rate,
        insert_wal=insert_wal,
        vacuum_wal=vacuum_wal,
        drain_rate=num_jobs / (report.finished_ns - min(report.started_ns)) * 1e9,
        drain_wal=drain_wal,
    )


async def measure_in_turns(
    url: str, num_jobs: int, num_rounds: int, slots: int
) -> tuple[list[Cost], list[Cost], str]:
    """Return the costs with and without the indexes, a pair for each round after a warm-up, and the server's version."""
    both: tuple[list[Cost], list[Cost]] = ([], [])
    async with bench_schema(url) as schema:
        for number in range(num_rounds + 1):
            for costs, has_indexes in zip(both, (True, False), strict=True):
                cost = await measure(schema, num_jobs, slots, has_indexes=has_indexes)
                log(f"round {number}, {'with' if has_indexes else 'without'}: {cost}")
                costs.extend([cost] if number else [])
        return *both, await schema.server_version()


def row(name: str, with_: Sequence[Cost], without: Sequence[Cost]) -> list[str]:
    """Return the medians with and without the indexes, and the ratio in each round: median, least and greatest."""
    sides = [[float(getattr(cost, name)) for cost in costs] for costs in (with_, without)]
    ratios = [after / before for before, after in zip(*sides, strict=True)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return [NAMES[name], *(f"{statistics.median(side):,.0f}" for side in sides), ratio]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=4_000)
    parser.add_argument("--busy", action="store_true", help="write that other programs ran")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with server_url(os.environ.get("DATABASE_URL")) as url:
        with_, without, server = asyncio.run(
            measure_in_turns(url, options.jobs, options.rounds, options.slots)
        )
    load = BUSY if options.busy else "No other heavy program ran."
    about = [
        *about_machine(server),
        f"- {options.jobs:,} no-op jobs in each measurement, {options.slots:,} workers. {load}",
        f"- {options.rounds} rounds in turns after an uncounted one: medians, and the least and greatest ratio in brackets.",
    ]
    heads = ["what", "with both indexes", "without", "without ÷ with"]
    text = "\n".join(about) + "\n\n" + table(heads, [row(name, with_, without) for name in NAMES])
    print(text)
    if options.write is not None:
        put(options.write, text, MARK.format("written"), MARK.format("end"))


if __name__ == "__main__":
    main()
