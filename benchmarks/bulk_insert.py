"""
Measure bulk inserts: `insert_many`, `insert_many_fast`, and the baseline of bare asyncpg.

    python benchmarks/bulk_insert.py --jobs 1000000

It starts a PostgreSQL of its own with durable default settings. The three take turns, after one round that does not
count. `insert_many` and the baseline insert a thousand jobs at a time. CPU is that of this process alone, in milliseconds
per thousand jobs; other programs on the machine hardly change it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from baseline import baseline_inserter

from millhand import Client, Config
from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.bench.workload import Noop
from millhand.embedded import embedded_postgres

BATCH = 1_000
NUM_ROUNDS = 3
MIB = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB

# Takes schema and number of jobs.
Insert = Callable[[BenchSchema, int], Awaitable["Figure"]]


@dataclass(frozen=True)
class Figure:
    """Jobs a second, and milliseconds of CPU per thousand jobs."""

    per_second: float
    cpu_ms: float


async def insert_baseline(schema: BenchSchema, num_jobs: int) -> Figure:
    """Insert in batches of 1,000 through bare asyncpg."""
    async with baseline_inserter(schema.url, schema.name) as inserter:
        watch = Stopwatch(num_jobs)
        for start in range(0, num_jobs, BATCH):
            await inserter.insert_many(range(start, min(start + BATCH, num_jobs)))
        return watch.figure()


async def insert_many(schema: BenchSchema, num_jobs: int) -> Figure:
    """Insert in batches of 1,000, which suits long lists whose rows are wanted."""
    async with Client(schema.url, Config(schema=schema.name)) as client:
        watch = Stopwatch(num_jobs)
        for batch in batched(num_jobs):
            await client.insert_many(batch)
        return watch.figure()


async def insert_many_fast(schema: BenchSchema, num_jobs: int) -> Figure:
    """Insert all jobs of an iterator with one COPY."""
    async with Client(schema.url, Config(schema=schema.name)) as client:
        watch = Stopwatch(num_jobs)
        await client.insert_many_fast(Noop(n) for n in range(num_jobs))
        return watch.figure()


class Stopwatch:
    """Measures from its construction on."""

    def __init__(self, num_jobs: int) -> None:
        self._num_jobs = num_jobs
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def figure(self) -> Figure:
        """Return the figures so far."""
        seconds, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        return Figure(self._num_jobs / seconds, cpu / self._num_jobs * 1e6)


def batched(num_jobs: int) -> Iterator[list[Noop]]:
    jobs = (Noop(n) for n in range(num_jobs))
    while batch := list(itertools.islice(jobs, BATCH)):
        yield batch


async def measured_round(
    schema: BenchSchema, inserts: Sequence[Insert], num_jobs: int
) -> dict[Insert, Figure]:
    figures = {}
    for insert in inserts:
        await schema.empty()
        figures[insert] = await insert(schema, num_jobs)
    return figures


def spread(values: Sequence[float], digits: int) -> str:
    least, greatest = f"{min(values):,.{digits}f}", f"{max(values):,.{digits}f}"
    return f"{statistics.median(values):>10,.{digits}f}  ({least} … {greatest})"


def show(rounds: Sequence[Mapping[Insert, Figure]]) -> None:
    for insert, name in ((insert_baseline, "baseline"), (insert_many, "many"), (insert_many_fast, "fast")):
        print(f"{name:10} jobs/s    {spread([one[insert].per_second for one in rounds], 0)}")
        print(f"{name:10} CPU, ms   {spread([one[insert].cpu_ms for one in rounds], 2)}")
    for of, to, name in (
        (insert_many, insert_baseline, "many/baseline"),
        (insert_many_fast, insert_many, "fast/many"),
    ):
        print(f"{name:10} jobs/s    {spread([one[of].per_second / one[to].per_second for one in rounds], 2)}")


async def main(num_jobs: int, num_rounds: int, url: str) -> None:
    async with bench_schema(url) as schema:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await measured_round(schema, [insert_many_fast], num_jobs)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        inserts = (insert_baseline, insert_many, insert_many_fast)
        _, *rounds = [await measured_round(schema, inserts, num_jobs) for _ in range(1 + num_rounds)]
    show(rounds)
    print(f"memory grew by {grown / MIB:.1f} MiB in the first insert_many_fast")


def run() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # a root's server runs as another user
        with embedded_postgres(Path(directory)) as server:
            asyncio.run(main(options.jobs, options.rounds, server.url))


if __name__ == "__main__":
    run()
