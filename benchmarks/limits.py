"""
What limits cost: drains of queues with a limit and without one, in turns; how busy slots are; how soon one is taken again.

    .venv/bin/python benchmarks/limits.py --jobs 20000 --rounds 5 --write benchmarks/results.md

The server is an embedded one, so that its CPU time can be read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
from contender import about_machine
from document import put, table
from drains import Cost, Costs, about_costs, costs_table, measure_costs, settle, truncate, work
from limits_queue import QUEUE, Push
from limits_worker import LimitedOrder, Worked
from own_server import Server, own_server
from worker_process import worker_process

from millhand import Client, Config, InsertOpts, Job, Limit, QueueConfig, Workers
from millhand.bench.bench_schema import AuditFailed, BenchSchema, bench_schema
from millhand.bench.rates import percentile

BEGIN_MARK = "<!-- limit figures: written by benchmarks/limits.py -->"
END_MARK = "<!-- end of limit figures -->"
BATCH = 1_000
CHILD = (str(Path(__file__).with_name("limits_worker.py")),)
PLAIN = "no limit"
LIMITS: Mapping[str, tuple[int, Limit | None]] = {
    PLAIN: (200, None),
    "one key, 1,000 at once": (1, Limit(at_once=1_000)),
    "200 keys, 10 at once each": (200, Limit(at_once=10, by_args=["key"])),
    "one key, 1,000 at once, shared": (1, Limit(at_once=1_000, shared=True)),
}
TABLES = ("millhand_limited_job", "millhand_limit_partition", "millhand_limit_arrival")
# Four processes that together have 40 slots of a limit.
NUM_PROCESSES = 4
NUM_KEYS = 10
AT_ONCE = 4


class Busy(msgspec.Struct, frozen=True):
    """How busy slots were, and the time from the end of a job to the start of the next of its key."""

    share: float
    gaps_ms: list[float]
    most_at_once: int


async def insert(schema: BenchSchema, limit: Limit | None, num_jobs: int, num_keys: int) -> None:
    """Insert jobs through a client that knows the limits, because it works another queue."""
    workers = Workers()

    @workers.add()
    async def push(job: Job[Push]) -> None: ...

    queues = {"other": QueueConfig(max_workers=1)}
    async with Client(schema.url, Config(heartbeat_interval=None, schema=schema.name)) as client:
        if limit is not None:
            await client.limits.set(QUEUE, at_once=limit.at_once, by_args=limit.by_args, shared=limit.shared)
    config = Config(heartbeat_interval=None, queues=queues, schema=schema.name, workers=workers)
    async with Client(schema.url, config) as client:
        for start in range(0, num_jobs, BATCH):
            numbers = range(start, min(start + BATCH, num_jobs))
            await client.insert_many([(Push(n, n % num_keys), InsertOpts(queue=QUEUE)) for n in numbers])


async def drain(server: Server, schema: BenchSchema, name: str, num_jobs: int) -> Cost:
    num_keys, limit = LIMITS[name]
    await truncate(schema, "millhand_limit", *TABLES)
    before_insert = server.cpu_seconds()
    await insert(schema, limit, num_jobs, num_keys)
    insert_seconds = server.cpu_seconds() - before_insert
    await settle(schema, "river_job", *TABLES)
    cost = await work(server, schema, num_jobs, insert_seconds)
    await audit(schema)
    return cost


async def audit(schema: BenchSchema) -> None:
    """Raise AuditFailed unless no slot is taken."""
    [row] = await schema.pool.fetch(
        f'SELECT (SELECT count(*) FROM "{schema.name}".millhand_limited_job) AS num_jobs,'
        f' (SELECT coalesce(sum(running), 0) FROM "{schema.name}".millhand_limit_partition) AS running'
    )
    if row["num_jobs"] or row["running"]:
        raise AuditFailed(f"no limited job or slot must be left, got {row['num_jobs']} and {row['running']}")


async def measure_busy(schema: BenchSchema, directory: Path, job_seconds: float, seconds: float) -> Busy:
    """Work jobs of a fixed length in four processes; the first and the last second do not count."""
    await truncate(schema, "millhand_limit", *TABLES)
    num_jobs = int(seconds / job_seconds * NUM_KEYS * AT_ONCE * 1.5)
    await insert(schema, Limit(at_once=AT_ONCE, by_args=["key"]), num_jobs, NUM_KEYS)
    await settle(schema, "river_job", *TABLES)
    journals = [directory / f"journal_{n}" for n in range(NUM_PROCESSES)]
    async with contextlib.AsyncExitStack() as stack:
        for journal in journals:
            order = LimitedOrder(
                job_seconds=job_seconds,
                journal=str(journal),
                num_jobs=0,
                schema=schema.name,
                slots=NUM_KEYS * AT_ONCE,
                system="",
                url=schema.url,
            )
            await stack.enter_async_context(worker_process(order, CHILD))
        began = time.monotonic_ns()
        await asyncio.sleep(seconds)
        ended = time.monotonic_ns()
    worked = [
        one for journal in journals for one in msgspec.json.decode(journal.read_bytes(), type=list[Worked])
    ]
    return busy_of(worked, began + 10**9, ended - 10**9)


def busy_of(worked: Sequence[Worked], began: int, ended: int) -> Busy:
    num_slots = NUM_KEYS * AT_ONCE
    used = sum(max(min(one.ended_ns, ended) - max(one.started_ns, began), 0) for one in worked)
    gaps: list[float] = []
    most = 0
    for key in range(NUM_KEYS):
        starts = sorted(one.started_ns for one in worked if one.key == key)
        ends = sorted(one.ended_ns for one in worked if one.key == key)
        # The n-th start takes the slot of the end that was AT_ONCE starts before.
        pairs = zip(ends, starts[AT_ONCE:], strict=False)
        gaps += [(start - end) / 1e6 for end, start in pairs if began <= end <= ended]
        events = sorted([(at, 1) for at in starts] + [(at, -1) for at in ends])
        running = 0
        for _, change in events:
            running += change
            most = max(most, running)
    return Busy(used / num_slots / (ended - began), gaps, most)


def report(costs: Costs, busy: Sequence[Busy], version: str, num_jobs: int) -> str:
    heads = {
        "insert_us": "server, insert",
        "server_us": "server, fetch and completion",
        "wal_bytes": "log of fetch and completion",
        "client_us": "client",
        "per_second": "jobs/s",
    }
    return "\n".join(
        [
            *about_machine(version),
            *about_costs(costs, num_jobs),
            "",
            costs_table(costs, "queue", heads),
            "",
            f"Jobs of 100 ms in {NUM_PROCESSES} processes, {NUM_KEYS} keys with {AT_ONCE} at once each:",
            "",
            busy_table(busy),
        ]
    )


def busy_table(busy: Sequence[Busy]) -> str:
    """Return how busy the slots were, and how soon they were taken again."""
    gaps = [gap for one in busy for gap in one.gaps_ms]
    shares = [one.share for one in busy]
    rows = [
        ["slots busy", f"{statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"],
        ["end of a job to the start of the next of its key, p50", f"{percentile(gaps, 0.5):.1f} ms"],
        ["the same, p99", f"{percentile(gaps, 0.99):.1f} ms"],
        ["most jobs of a key at once", str(max(one.most_at_once for one in busy))],
    ]
    return table(["what", "found"], rows)


async def measure(options: argparse.Namespace, server: Server) -> str:
    names = [name for name in LIMITS if name == PLAIN or not options.only or options.only in name]
    async with bench_schema(server.url) as schema:
        costs = await measure_costs(partial(drain, server, schema), names, options.rounds, options.jobs)
        busy = [
            await measure_busy(schema, server.directory, options.job_seconds, options.busy_seconds)
            for _ in range(1 if options.only else options.rounds)
        ]
        return report(costs, busy, await schema.server_version(), options.jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--job-seconds", type=float, default=0.1)
    parser.add_argument("--busy-seconds", type=float, default=8.0)
    parser.add_argument("--only", default="", help="part of the name of the limits to measure")
    parser.add_argument("--write", type=Path, help="the document to write the tables into")
    options = parser.parse_args()
    with own_server() as server:
        text = asyncio.run(measure(options, server))
    print(text)
    if options.write:
        put(options.write, text, BEGIN_MARK, END_MARK)


if __name__ == "__main__":
    main()
