"""
What inserting a great many jobs costs: `insert_many`, a thousand at a time, and `insert_many_fast`, as they come.

    python benchmarks/bulk_insert.py --jobs 1000000

On a PostgreSQL of its own with durable default settings. The two take turns, after one round that does not count.
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
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from millhand import Client, Config
from millhand.bench.place import Place, bench_place
from millhand.bench.workload import Noop
from millhand.embedded import embedded_postgres

BATCH = 1_000
NUM_ROUNDS = 3
MIB = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB

Insert = Callable[[Client, int], Awaitable[object]]


@dataclass(frozen=True)
class Round:
    """Rates are jobs a second; memory is what the process grew by at most."""

    many_per_second: float
    fast_per_second: float
    fast_mib: float


async def insert_many(client: Client, num_jobs: int) -> None:
    """Insert by a thousand, as long lists are best inserted with rows wanted back."""
    for batch in batched(num_jobs):
        await client.insert_many(batch)


async def insert_many_fast(client: Client, num_jobs: int) -> None:
    """Insert all in one COPY, out of an iterator."""
    await client.insert_many_fast(Noop(n) for n in range(num_jobs))


def batched(num_jobs: int) -> Iterator[list[Noop]]:
    jobs = (Noop(n) for n in range(num_jobs))
    while batch := list(itertools.islice(jobs, BATCH)):
        yield batch


async def measured(place: Place, insert: Insert, num_jobs: int) -> float:
    """Return how many jobs were inserted a second."""
    await place.empty()
    async with Client(place.url, Config(schema=place.schema)) as client:
        began = time.perf_counter()
        await insert(client, num_jobs)
        return num_jobs / (time.perf_counter() - began)


async def measured_round(place: Place, num_jobs: int) -> Round:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fast = await measured(place, insert_many_fast, num_jobs)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return Round(await measured(place, insert_many, num_jobs), fast, grown / MIB)


async def main(num_jobs: int, num_rounds: int, url: str) -> None:
    async with bench_place(url) as place:
        first, *rounds = [await measured_round(place, num_jobs) for _ in range(1 + num_rounds)]
    ratios = [one.fast_per_second / one.many_per_second for one in rounds]
    for name in ("many_per_second", "fast_per_second"):
        rates = [getattr(one, name) for one in rounds]
        print(f"{name:16}{statistics.median(rates):>10,.0f}  ({min(rates):,.0f} … {max(rates):,.0f})")
    print(f"{'fast/many':16}{statistics.median(ratios):>10.2f}  ({min(ratios):.2f} … {max(ratios):.2f})")
    print(f"{'memory grew by':16}{first.fast_mib:>10.1f}  MiB in the first round of insert_many_fast")


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
