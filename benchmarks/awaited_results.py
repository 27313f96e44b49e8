"""
What it costs to await the result of a job: the time from the insert to the answer, and the CPU time of the caller.

    .venv/bin/python benchmarks/awaited_results.py --rounds 3 --write benchmarks/results.md

The worker has a process of its own. Its job returns when it started, so that both times are of the same job.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
from contender import about_machine, server_url
from document import put, table
from results_worker import Ask
from worker_process import WorkOrder, worker_process

from millhand import Client, Config, Job, Workers
from millhand.bench.bench_schema import AuditFailed, BenchSchema, bench_schema
from millhand.bench.rates import percentile

BEGIN_MARK = "<!-- result figures: written by benchmarks/awaited_results.py -->"
END_MARK = "<!-- end of result figures -->"
CHILD = (str(Path(__file__).with_name("results_worker.py")),)
SLOTS = 200
NUM_CALLERS = 50
WAIT = timedelta(seconds=60)


class Latency(msgspec.Struct, frozen=True):
    """The time from an insert to the start of its job, and to the answer, in milliseconds."""

    start_ms: float
    answer_ms: float

    @property
    def more_ms(self) -> float:
        return self.answer_ms - self.start_ms


class Load(msgspec.Struct, frozen=True):
    """The CPU time of the caller's process for a call, in microseconds, and the calls that it made in a second."""

    call_us: float
    per_second: float


@contextlib.asynccontextmanager
async def caller(schema: BenchSchema, *, listens: bool) -> AsyncIterator[Client]:
    """Start a client that works another queue, so that it listens, or one that only inserts, so that it polls."""
    workers = Workers()

    @workers.add()
    async def other(job: Job[Ask]) -> None: ...

    queues = {"other": 1} if listens else {}
    async with Client(
        schema.url, Config(heartbeat_interval=None, queues=queues, schema=schema.name, workers=workers)
    ) as client:
        yield client


async def latencies(schema: BenchSchema, num_jobs: int, *, listens: bool) -> list[Latency]:
    """Await one job after the other."""
    found = []
    async with caller(schema, listens=listens) as client:
        for n in range(num_jobs):
            began = time.monotonic_ns()
            started = await client.insert_and_wait(Ask(n), returns=int, timeout=WAIT)
            found.append(Latency((started - began) / 1e6, (time.monotonic_ns() - began) / 1e6))
    return found


async def load(schema: BenchSchema, seconds: float, rate: int, *, waits: bool) -> Load:
    """Make calls at a rate, from many tasks."""
    async with caller(schema, listens=True) as client:

        async def wait(n: int) -> None:
            await client.insert_and_wait(Ask(n), returns=int, timeout=WAIT)

        async def insert(n: int) -> None:
            await client.insert(Ask(n))

        cpu, began = time.process_time(), time.monotonic()
        num_calls = await at_rate(wait if waits else insert, seconds, rate)
        took = time.monotonic() - began
        used = time.process_time() - cpu
    return Load(used / num_calls * 1e6, num_calls / took)


async def at_rate(call: Callable[[int], Awaitable[None]], seconds: float, rate: int) -> int:
    """Let callers make so many calls a second together. A caller that is late makes fewer, so that none pile up."""
    begin = asyncio.get_running_loop().time()
    counts = [0] * NUM_CALLERS

    async def run(caller: int) -> None:
        loop = asyncio.get_running_loop()
        at = begin + caller / rate
        while at < begin + seconds:
            await asyncio.sleep(at - loop.time())
            await call(caller)
            counts[caller] += 1
            at = max(at + NUM_CALLERS / rate, loop.time())

    async with asyncio.TaskGroup() as group:
        for caller in range(NUM_CALLERS):
            group.create_task(run(caller))
    return sum(counts)


async def measure(options: argparse.Namespace, url: str) -> str:
    listening: list[Latency] = []
    polling: list[Latency] = []
    loads: list[tuple[Load, Load]] = []
    async with bench_schema(url) as schema:
        order = WorkOrder(num_jobs=0, schema=schema.name, slots=SLOTS, system="", url=schema.url)
        async with worker_process(order, CHILD):
            await latencies(schema, options.jobs // 10, listens=True)  # a warm-up
            for _ in range(options.rounds):
                listening += await latencies(schema, options.jobs, listens=True)
                polling += await latencies(schema, options.jobs // 10, listens=False)
                inserted, awaited = [
                    await load(schema, options.seconds, options.rate, waits=waits) for waits in (False, True)
                ]
                loads.append((inserted, awaited))
                print(inserted, awaited, flush=True)
            await audit(schema)
        return report(options, listening, polling, loads, await schema.server_version())


async def audit(schema: BenchSchema) -> None:
    """Raise AuditFailed unless each job was worked once."""
    states = "SELECT count(*) AS num_jobs FROM \"{}\".river_job WHERE state <> 'completed' OR attempt <> 1"
    async with asyncio.timeout(WAIT.total_seconds()):
        while (await schema.pool.fetch(states.format(schema.name)))[0]["num_jobs"]:  # noqa: ASYNC110 - it polls
            await asyncio.sleep(0.5)
    [row] = await schema.pool.fetch(
        f"SELECT count(*) AS num_jobs FROM \"{schema.name}\".river_job WHERE NOT metadata ? 'output'"
    )
    if row["num_jobs"]:
        raise AuditFailed(f"each job must have an output, got {row['num_jobs']:,} without one")


def report(
    options: argparse.Namespace,
    listening: Sequence[Latency],
    polling: Sequence[Latency],
    loads: Sequence[tuple[Load, Load]],
    version: str,
) -> str:
    heads = ["one caller, one job after the other", "p50", "p95"]
    rows = [
        ["insert to start of the job", *_times([one.start_ms for one in listening])],
        ["insert to answer, a client that listens", *_times([one.answer_ms for one in listening])],
        ["start to answer, a client that listens", *_times([one.more_ms for one in listening])],
        ["start to answer, a client that only inserts", *_times([one.more_ms for one in polling])],
    ]
    per_second = statistics.median(awaited.per_second for _, awaited in loads)
    more = [awaited.call_us - inserted.call_us for inserted, awaited in loads]
    return "\n".join(
        [
            *about_machine(version),
            f"- {len(loads)} rounds, {options.jobs:,} jobs in each for the times, {options.seconds:g} s for the CPU time.",
            "- Other programs ran on the machine.",
            "",
            table(heads, rows),
            "",
            table(
                [
                    f"{NUM_CALLERS} callers, some {per_second:,.0f} calls a second together",
                    "CPU time of the caller's process for a call",
                ],
                [
                    ["`insert`", _microseconds([inserted.call_us for inserted, _ in loads])],
                    ["`insert_and_wait`", _microseconds([awaited.call_us for _, awaited in loads])],
                    ["more for the wait", _microseconds(more)],
                ],
            ),
        ]
    )


def _times(values: Sequence[float]) -> list[str]:
    return [f"{percentile(values, share):.1f} ms" for share in (0.5, 0.95)]


def _microseconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} µs ({min(values):,.0f} to {max(values):,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--url", help="a database; an embedded one by default")
    parser.add_argument("--write", type=Path, help="the document to write the tables into")
    options = parser.parse_args()
    with server_url(options.url) as url:
        text = asyncio.run(measure(options, url))
    print(text)
    if options.write:
        put(options.write, text, BEGIN_MARK, END_MARK)


if __name__ == "__main__":
    main()
