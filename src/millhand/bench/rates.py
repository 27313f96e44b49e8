"""Inserts at full speed or at a fixed rate, timed. Rates are jobs a second of wall time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

from millhand.bench.noop_client import NoopInserter

INSERT_BATCH = 1_000
INSERT_LANES = 4


async def insert_singly(inserter: NoopInserter, numbers: range) -> float:
    began = time.perf_counter()
    for n in numbers:
        await inserter.insert(n)
    return len(numbers) / (time.perf_counter() - began)


async def insert_bulk(inserter: NoopInserter, num_jobs: int) -> float:
    began = time.perf_counter()
    for start in range(0, num_jobs, INSERT_BATCH):
        await inserter.insert_many(range(start, min(start + INSERT_BATCH, num_jobs)))
    return num_jobs / (time.perf_counter() - began)


async def insert_at_rate(inserter: NoopInserter, numbers: range, per_second: float) -> list[int]:
    """Insert each job at its own instant, through lanes that take turns; return when each insert returned."""
    returned_ns = [0] * len(numbers)
    began = time.perf_counter()

    async def insert_every(indices: Iterator[int]) -> None:
        for index in indices:
            await asyncio.sleep(max(began + index / per_second - time.perf_counter(), 0.0))
            await inserter.insert(numbers[index])
            returned_ns[index] = time.monotonic_ns()

    async with asyncio.TaskGroup() as group:
        for lane in range(INSERT_LANES):
            group.create_task(insert_every(iter(range(lane, len(numbers), INSERT_LANES))))
    return returned_ns


def latencies_ms(returned_ns: Sequence[int], started_ns: Sequence[int]) -> list[float]:
    """Return the milliseconds from the return of each insert to the start of its job."""
    pairs = zip(returned_ns, started_ns, strict=True)
    return [(started - returned) / 1e6 for returned, started in pairs]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all values do not exceed; with few values that is the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
