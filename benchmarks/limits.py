"""
What limits cost: drains of queues with a limit and without one, in turns; how busy slots are; how soon one is taken again.

    .venv/bin/python benchmarks/limits.py --jobs 20000 --rounds 5 --write docs/reference/benchmark_results.md

The server is an embedded one, so that its CPU time can be read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import msgspec
from contender import about_machine
from document import put, table
from keep_completed import Server
from limits_queue import QUEUE, Push
from limits_worker import LimitedOrder, Worked
from worker_process import worker_process

from millhand import Client, Config, InsertOpts, Job, Limit, QueueConfig, Workers
from millhand.bench.bench_schema import AuditFailed, BenchSchema, bench_schema
from millhand.bench.rates import percentile
from millhand.bench.workload import Tally
from millhand.embedded import embedded_postgres
from millhand.event import EventKind, JobEvent
from millhand.runtime.subscription import Subscription

BEGIN_MARK = "<!-- limit figures: written by benchmarks/limits.py -->"
END_MARK = "<!-- end of limit figures -->"
BATCH = 1_000
SECONDS = 900.0
SLOTS = 1_000
CHILD = (str(Path(__file__).with_name("limits_worker.py")),)
PLAIN = "no limit"
LIMITS: Mapping[str, tuple[int, Limit | None]] = {
    PLAIN: (200, None),
    "one key, 1,000 at once": (1, Limit(at_once=1_000)),
    "200 keys, 10 at once each": (200, Limit(at_once=10, by_args=["key"])),
    "one key, 1,000 at once, shared": (1, Limit(at_once=1_000, shared=True)),
}
TABLES = ("river_job", "millhand_limited_job", "millhand_limit_partition", "millhand_limit_arrival")
# Four processes that together have 40 slots of a limit.
NUM_PROCESSES = 4
NUM_KEYS = 10
AT_ONCE = 4


class Cost(msgspec.Struct, frozen=True):
    """What one drain had: CPU time in microseconds and WAL in bytes for one job, and jobs a second."""

    insert_us: float
    server_us: float
    client_us: float
    wal_bytes: float
    per_second: float


class Busy(msgspec.Struct, frozen=True):
    """How busy slots were, and the time from the end of a job to the start of the next of its key."""

    share: float
    gaps_ms: list[float]
    most_at_once: int


async def empty(schema: BenchSchema) -> None:
    await schema.empty()
    tables = ", ".join(f'"{schema.name}".{name}' for name in ("millhand_limit", *TABLES[1:]))
    await schema.pool.execute_script(f"TRUNCATE {tables}")


async def settle(schema: BenchSchema) -> None:
    for name in TABLES:
        await schema.pool.execute_script(f'VACUUM (ANALYZE) "{schema.name}".{name}', timeout_seconds=SECONDS)
    await schema.pool.execute_script("CHECKPOINT", timeout_seconds=SECONDS)


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


async def drain(server: Server, schema: BenchSchema, num_jobs: int, name: str) -> Cost:
    num_keys, limit = LIMITS[name]
    await empty(schema)
    before_insert = server.cpu_seconds()
    await insert(schema, limit, num_jobs, num_keys)
    insert_seconds = server.cpu_seconds() - before_insert
    await settle(schema)
    tally, cost = await work(server, schema, num_jobs, insert_seconds)
    await audit(schema, tally)
    return cost


async def work(
    server: Server, schema: BenchSchema, num_jobs: int, insert_seconds: float
) -> tuple[Tally, Cost]:
    """Work the jobs that were inserted, and return their tally and cost."""
    tally = Tally(num_jobs)
    async with worker(schema, tally):
        # The client has started: what follows is work.
        wal, client_seconds, server_seconds = (
            await wal_position(schema),
            time.process_time(),
            server.cpu_seconds(),
        )
        first = tally.num_completed
        began = time.perf_counter()
        await tally.wait_end(SECONDS)
        seconds = time.perf_counter() - began
        used = time.process_time() - client_seconds
        server_used = server.cpu_seconds() - server_seconds
        written = await wal_position(schema) - wal
    num_worked = num_jobs - first
    cost = Cost(
        insert_us=insert_seconds / num_jobs * 1e6,
        server_us=server_used / num_worked * 1e6,
        client_us=used / num_worked * 1e6,
        wal_bytes=written / num_worked,
        per_second=num_worked / seconds,
    )
    return tally, cost


@contextlib.asynccontextmanager
async def worker(schema: BenchSchema, tally: Tally) -> AsyncIterator[None]:
    workers = Workers()

    @workers.add()
    async def push(job: Job[Push]) -> None:
        tally.begin(job.args.n)

    config = Config(
        heartbeat_interval=None,
        queues={QUEUE: QueueConfig(max_workers=SLOTS)},
        schema=schema.name,
        workers=workers,
    )
    client = Client(schema.url, config)
    completions = client.subscribe(EventKind.JOB_COMPLETED, buffer_size=tally.num_jobs)
    async with asyncio.TaskGroup() as group:
        group.create_task(count(completions, tally))
        async with client:
            yield


async def count(completions: Subscription[JobEvent], tally: Tally) -> None:
    async for _ in completions:
        tally.complete()


async def wal_position(schema: BenchSchema) -> int:
    [row] = await schema.pool.fetch("SELECT (pg_current_wal_lsn() - '0/0')::bigint AS position")
    return int(row["position"])


async def audit(schema: BenchSchema, tally: Tally) -> None:
    """Raise AuditFailed unless each job was worked once, and no slot is taken."""
    await schema.audit(tally.num_jobs)
    [row] = await schema.pool.fetch(
        f'SELECT (SELECT count(*) FROM "{schema.name}".millhand_limited_job) AS num_jobs,'
        f' (SELECT coalesce(sum(running), 0) FROM "{schema.name}".millhand_limit_partition) AS running'
    )
    if row["num_jobs"] or row["running"]:
        raise AuditFailed(f"no limited job or slot must be left, got {row['num_jobs']} and {row['running']}")


async def measure_busy(schema: BenchSchema, directory: Path, job_seconds: float, seconds: float) -> Busy:
    """Work jobs of a fixed length in four processes; the first and the last second do not count."""
    await empty(schema)
    num_jobs = int(seconds / job_seconds * NUM_KEYS * AT_ONCE * 1.5)
    await insert(schema, Limit(at_once=AT_ONCE, by_args=["key"]), num_jobs, NUM_KEYS)
    await settle(schema)
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


def report(costs: Mapping[str, Sequence[Cost]], busy: Sequence[Busy], version: str, num_jobs: int) -> str:
    heads = [
        "queue",
        "server, insert",
        "server, fetch and completion",
        "log of fetch and completion",
        "client",
        "jobs/s",
    ]
    units = {
        "insert_us": " µs",
        "server_us": " µs",
        "wal_bytes": " bytes",
        "client_us": " µs",
        "per_second": "",
    }
    plain_costs = [
        f"{statistics.median(getattr(one, field) for one in costs[PLAIN]):,.0f}{unit}"
        for field, unit in units.items()
    ]
    rows = [[PLAIN, *plain_costs]]
    for name in [name for name in costs if name != PLAIN]:
        row = [name]
        for field in units:
            ratios = [
                getattr(one, field) / getattr(plain, field)
                for plain, one in zip(costs[PLAIN], costs[name], strict=True)
            ]
            row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        rows.append(row)
    gaps = [gap for one in busy for gap in one.gaps_ms]
    shares = [one.share for one in busy]
    return "\n".join(
        [
            *about_machine(version),
            f"- {num_jobs:,} no-op jobs in each drain; a client with {SLOTS:,} workers.",
            "- The first line has the cost of a job, the others the ratios to it in the same round.",
            f"- {len(costs[PLAIN])} rounds in turns after an uncounted one: medians, with least and greatest in brackets.",
            "- Compare only the ratios: other machines have other rates.",
            "",
            table(heads, rows),
            "",
            f"Jobs of 100 ms in {NUM_PROCESSES} processes, {NUM_KEYS} keys with {AT_ONCE} at once each:",
            "",
            table(
                ["what", "found"],
                [
                    [
                        "slots busy",
                        f"{statistics.median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})",
                    ],
                    [
                        "end of a job to the start of the next of its key, p50",
                        f"{percentile(gaps, 0.5):.1f} ms",
                    ],
                    ["the same, p99", f"{percentile(gaps, 0.99):.1f} ms"],
                    ["most jobs of a key at once", str(max(one.most_at_once for one in busy))],
                ],
            ),
        ]
    )


async def measure(options: argparse.Namespace, server: Server, url: str, directory: Path) -> str:
    names = [name for name in LIMITS if name == PLAIN or not options.only or options.only in name]
    async with bench_schema(url) as schema:
        costs: dict[str, list[Cost]] = {name: [] for name in names}
        for number in range(options.rounds + 1):
            for name in names[:: 1 if number % 2 else -1]:
                num_jobs = options.jobs if number else max(options.jobs // 5, 100)
                cost = await drain(server, schema, num_jobs, name)
                if number:
                    costs[name].append(cost)
                    print(
                        f"{name:34}",
                        *(f"{value:10,.1f}" for value in msgspec.structs.astuple(cost)),
                        flush=True,
                    )
        busy = [
            await measure_busy(schema, directory, options.job_seconds, options.busy_seconds)
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
    with tempfile.TemporaryDirectory(prefix="millhand-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # for root, the server runs as another user
        with embedded_postgres(directory / "pg") as postgres:
            server = Server(directory / "pg" / "data")
            text = asyncio.run(measure(options, server, postgres.url, directory))
    print(text)
    if options.write:
        put(options.write, text, BEGIN_MARK, END_MARK)


if __name__ == "__main__":
    main()
