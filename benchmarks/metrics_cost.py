"""
Measure what the counting of metrics costs: no-op jobs with it and without it, in turns, in one process.

    python benchmarks/metrics_cost.py URL [NUM_JOBS] [NUM_ROUNDS]

Each line has the rate, the CPU time of a job, and both relative to the drain without it in the same round: the median, the
lowest and the highest. "without again" shows how much of that is noise.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

from millhand import Client, Config, Job, QueueConfig, Workers
from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.core.event import EventKind
from millhand.engine.client_metrics import ClientMetrics

COUNTING = {
    name: getattr(ClientMetrics, name)
    for name in ("add_completed", "add_fetched", "add_finished", "add_inserted", "add_pass")
}


@dataclass(frozen=True)
class Noop:
    """The args of a job that does nothing."""

    kind: ClassVar[str] = "noop"
    n: int


async def drain(schema: BenchSchema, num_jobs: int, *, counts: bool) -> tuple[float, float]:
    """Return jobs a second and CPU microseconds a job, without the first fifth of the jobs."""
    for name, counting in COUNTING.items():
        setattr(ClientMetrics, name, counting if counts else lambda *_, **__: None)
    await schema.empty()
    async with Client(schema.url, Config(schema=schema.name)) as inserter:
        await inserter.insert_many_fast(Noop(n) for n in range(num_jobs))
    await schema.settle(with_checkpoint=False)
    workers = Workers()

    @workers.add()
    async def noop(job: Job[Noop]) -> None:
        pass

    queues = {"default": QueueConfig(max_workers=1_000)}
    client = Client(schema.url, Config(queues=queues, schema=schema.name, workers=workers))
    gc.collect()
    async with client:
        done = client._engine.completer.num_by_kind  # noqa: SLF001 - without an event for each job
        await until(done, num_jobs // 5)
        first, began, cpu = done[EventKind.JOB_COMPLETED], time.perf_counter(), time.process_time()
        await until(done, num_jobs)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return (num_jobs - first) / seconds, cpu / (num_jobs - first) * 1e6


async def until(done: dict[EventKind, int], num_jobs: int) -> None:
    while done[EventKind.JOB_COMPLETED] < num_jobs:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.001)


async def main(url: str, num_jobs: int = 20_000, num_rounds: int = 9) -> None:
    """Print the figures."""
    async with bench_schema(url) as schema:
        await drain(schema, num_jobs, counts=False)
        found: dict[str, list[tuple[float, float]]] = {"without": [], "without again": [], "with": []}
        for number in range(num_rounds):
            for name in [*found][:: 1 if number % 2 else -1]:
                found[name].append(await drain(schema, num_jobs, counts=name == "with"))
    for name, drains in found.items():
        rates, times = zip(*drains, strict=True)
        pairs = list(zip(found["without"], drains, strict=True))
        rate = relative([after[0] / before[0] for before, after in pairs])
        cpu = relative([after[1] / before[1] for before, after in pairs])
        print(
            f"{name:14} {statistics.median(rates):8,.0f} jobs/s {rate}   {statistics.median(times):6.1f} us CPU {cpu}"
        )


def relative(ratios: list[float]) -> str:
    return f"x {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:4])))
