"""
The memory of one worker while it works ten million no-op jobs, and its rate.

    .venv/bin/python benchmarks/long_drain.py --jobs 10000000
    .venv/bin/python benchmarks/long_drain.py --jobs 10000000 --delete-completed

The worker is a process of its own with default settings. The parent keeps at least 100,000 jobs waiting, so the worker
never rests. It prints a line at 50,000 jobs and after each tenth of them all: jobs, resident memory now, its peak, the
least number of memory blocks that Python had in use since the line before, and jobs a second since then. The parent inserts
meanwhile, so the rate is not that of a drain alone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Sequence
from pathlib import Path

from own_server import own_server

from millhand import Client, Config, Job, Workers
from millhand.bench.bench_schema import BenchSchema, bench_schema
from millhand.bench.workload import Noop

BLOCK = 50_000
SAMPLE = 5_000
BACKLOG = 2 * BLOCK
SECONDS = 600.0


async def run_worker(url: str, schema: str, *, keeps: bool) -> None:
    """Work until the input ends; after each block of jobs print their number and the memory in KiB."""
    workers = Workers()
    num_begun, num_living = 0, []

    @workers.add()
    async def noop(_: Job[Noop]) -> None:
        nonlocal num_begun
        num_begun += 1
        if num_begun % SAMPLE == 0:
            num_living.append(sys.getallocatedblocks())
        if num_begun % BLOCK == 0:
            print(num_begun, memory_kib("VmRSS"), memory_kib("VmHWM"), min(num_living), flush=True)
            num_living.clear()

    gc.collect()
    gc.freeze()  # as `millhand worker` does
    config = Config(
        heartbeat_interval=None, keep_completed=keeps, queues={"default": 100}, schema=schema, workers=workers
    )
    async with Client(url, config):
        await asyncio.to_thread(sys.stdin.read)


def memory_kib(name: str) -> int:
    """Return a number of this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise KeyError(name)


async def measure(url: str, num_jobs: int, options: Sequence[str]) -> None:
    async with bench_schema(url) as schema:
        await fill_and_watch(schema, num_jobs, options)


async def fill_and_watch(schema: BenchSchema, num_jobs: int, options: Sequence[str]) -> None:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--worker", schema.url, schema.name, *options, stdin=PIPE, stdout=PIPE
    )
    assert worker.stdin is not None  # noqa: S101 - pipes
    assert worker.stdout is not None  # noqa: S101
    num_inserted = num_begun = num_shown = 0
    num_living = []
    shown_at = time.perf_counter()
    async with Client(schema.url, Config(schema=schema.name)) as client:
        while num_begun < num_jobs:
            while num_inserted < min(num_begun + BACKLOG + BLOCK, num_jobs):
                await client.insert_many_fast(Noop(n) for n in range(BLOCK))
                num_inserted += BLOCK
            said = await asyncio.wait_for(worker.stdout.readline(), SECONDS)
            num_begun, now, peak, least = map(int, said.split())
            num_living.append(least)
            if num_begun in (BLOCK, num_jobs) or num_begun % max(num_jobs // 10, BLOCK) == 0:
                rate = (num_begun - num_shown) / (time.perf_counter() - shown_at)
                print(
                    f"{num_begun:12,} jobs, {now / 1024:.1f} MiB, peak {peak / 1024:.1f} MiB, "
                    f"{min(num_living):,} living blocks, {rate:,.0f} jobs/s",
                    flush=True,
                )
                num_living.clear()
                num_shown, shown_at = num_begun, time.perf_counter()
    worker.stdin.close()
    await worker.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="memory of one worker over many jobs")
    parser.add_argument("--jobs", type=int, default=10_000_000, help=f"in steps of {BLOCK:,}")
    parser.add_argument("--delete-completed", action="store_true", help="with keep_completed=False")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        asyncio.run(run_worker(*options.worker, keeps=not options.delete_completed))
        return
    with own_server() as server:
        passed = ["--delete-completed"] if options.delete_completed else []
        asyncio.run(measure(server.url, options.jobs - options.jobs % BLOCK, passed))


if __name__ == "__main__":
    main()
