"""
What old snapshots cost: jobs worked while transactions keep every dead row, beside the same without any, in turns.

    python benchmarks/pressure.py --dead 300000 --rounds 5

On a PostgreSQL of its own with two databases, for a snapshot counts in its own database only. In the one nothing is in
the way; in the other a snapshot was opened before `--dead` jobs were worked and completed, and is kept.

    idle       a worker that is started afterwards works jobs off, beside a transaction that does nothing
    readers    the same, beside four readers who list jobs again and again, each in a snapshot that it keeps
    sustained  jobs are inserted for as long as they are worked, faster than that
    burst      jobs are inserted at once for a worker that idles

A round's ratio is to the rate without pressure measured just before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from millhand.bench.place import Place, bench_place
from millhand.bench.process import WorkerProcess, WorkOrder, WorkReport, worker_process
from millhand.bench.system import MILL
from millhand.embedded import embedded_postgres

BATCH = 1_000
NUM_READERS = 4
PAUSE_SECONDS = 0.5
SLOTS_AHEAD = 4_000  # of the worker that makes dead rows
TIMEOUT_SECONDS = 900.0

Measure = Callable[[Place, int], Awaitable[float]]


async def drained(place: Place, num_jobs: int) -> float:
    """Insert jobs, have a worker work them off that is started afterwards, and return how many a second."""
    await inserted(place, num_jobs)
    await place.settle(with_checkpoint=True)  # which takes nothing away that a snapshot keeps
    return rate(await worked(place, num_jobs))


async def sustained(place: Place, num_jobs: int) -> float:
    """Insert jobs while they are worked."""
    await place.settle(with_checkpoint=True)
    async with working(place, num_jobs) as worker:
        report, _ = await asyncio.gather(worker.wait_report(TIMEOUT_SECONDS), inserted(place, num_jobs))
    return rate(report)


async def burst(place: Place, num_jobs: int) -> float:
    """Insert jobs at once for a worker that idles, and return how many a second were worked since then."""
    await place.settle(with_checkpoint=True)
    async with working(place, num_jobs) as worker:
        await asyncio.sleep(PAUSE_SECONDS)
        began = time.monotonic_ns()
        await inserted(place, num_jobs)
        report = await worker.wait_report(TIMEOUT_SECONDS)
    return num_jobs / (report.finished_ns - began) * 1e9


MEASURES: dict[str, Measure] = {"idle": drained, "readers": drained, "sustained": sustained, "burst": burst}


def rate(report: WorkReport) -> float:
    return len(report.started_ns) / (report.finished_ns - min(report.started_ns)) * 1e9


async def inserted(place: Place, num_jobs: int) -> None:
    async with MILL.inserter(place.url, place.schema) as inserter:
        for start in range(0, num_jobs, BATCH):
            await inserter.insert_many(range(start, min(start + BATCH, num_jobs)))


@contextlib.asynccontextmanager
async def working(place: Place, num_jobs: int, slots: int = MILL.slots) -> AsyncIterator[WorkerProcess]:
    order = WorkOrder(num_jobs=num_jobs, schema=place.schema, slots=slots, system=MILL.name, url=place.url)
    async with worker_process(order) as worker:
        yield worker


async def worked(place: Place, num_jobs: int, slots: int = MILL.slots) -> WorkReport:
    async with working(place, num_jobs, slots) as worker:
        return await worker.wait_report(TIMEOUT_SECONDS)


@contextlib.asynccontextmanager
async def snapshot(place: Place) -> AsyncIterator[asyncpg.Connection]:
    """Keep a snapshot of a database for as long as this lasts."""
    connection = await asyncpg.connect(place.url)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetch(f'SELECT id FROM "{place.schema}".river_job LIMIT 1')
            yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def pressure(place: Place, num_dead: int) -> AsyncIterator[None]:
    """Open a snapshot, and have jobs worked and completed after it, whose dead rows it keeps."""
    await place.empty()
    async with snapshot(place):
        await inserted(place, num_dead)
        await worked(place, num_dead, SLOTS_AHEAD)
        yield


@contextlib.asynccontextmanager
async def reading(place: Place, num_readers: int) -> AsyncIterator[None]:
    """Have readers list jobs, again and again, each in a snapshot that it keeps."""

    async def read(connection: asyncpg.Connection) -> None:
        while True:
            await connection.fetch(f'SELECT * FROM "{place.schema}".river_job ORDER BY id LIMIT 100')
            await asyncio.sleep(PAUSE_SECONDS)

    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(snapshot(place)) for _ in range(num_readers)]
        tasks = [asyncio.ensure_future(read(connection)) for connection in connections]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def main(options: argparse.Namespace, url: str) -> None:
    ratios: dict[str, list[float]] = {}
    async with (
        bench_place(await other_database(url)) as clean,
        bench_place(url) as pressed,
        pressure(pressed, options.dead),
    ):
        for name in options.only * options.rounds:
            await clean.empty()
            before = await MEASURES[name](clean, options.jobs)
            async with reading(pressed, NUM_READERS if name == "readers" else 0):
                after = await MEASURES[name](pressed, options.jobs)
            ratios.setdefault(name, []).append(after / before)
            print(f"{name:12}{before:>10,.0f}{after:>10,.0f}{after / before:>8.2f}", flush=True)
    for name, found in ratios.items():
        print(f"| {name} | {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f}) |")


async def other_database(url: str) -> str:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE DATABASE clean")
    await connection.close()
    return urlunsplit(urlsplit(url)._replace(path="/clean"))


def run() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dead", type=int, default=300_000)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # a root's server runs as another user
        with embedded_postgres(Path(directory), {"max_wal_size": "4GB"}) as server:
            asyncio.run(main(options, server.url))


if __name__ == "__main__":
    run()
