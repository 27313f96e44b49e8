"""What it costs to work the jobs of a queue until it is empty, beside the cost of plain jobs in the same round."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import msgspec
from document import table
from limits_queue import QUEUE, Push
from own_server import Server

from millhand import Client, Config, Job, QueueConfig, Workers
from millhand.bench.bench_schema import BenchSchema
from millhand.bench.workload import Tally
from millhand.core.event import EventKind, JobEvent
from millhand.engine.subscription import Subscription

SECONDS = 900.0
SLOTS = 1_000


class Cost(msgspec.Struct, frozen=True):
    """What one drain had: CPU time in microseconds and WAL in bytes for one job, and jobs a second."""

    insert_us: float
    server_us: float
    client_us: float
    wal_bytes: float
    per_second: float


UNITS = {"insert_us": " µs", "server_us": " µs", "client_us": " µs", "wal_bytes": " bytes", "per_second": ""}
Costs = Mapping[str, Sequence[Cost]]
"""The costs of each round by the name of the jobs. The first are the plain ones."""


async def truncate(schema: BenchSchema, *tables: str) -> None:
    """Delete all jobs, and the rows of more tables."""
    await schema.empty()
    names = ", ".join(f'"{schema.name}".{name}' for name in tables)
    await schema.pool.execute_script(f"TRUNCATE {names}")


async def settle(schema: BenchSchema, *tables: str) -> None:
    """Refresh the statistics of tables and flush everything, so that all measurements start alike."""
    for name in tables:
        await schema.pool.execute_script(f'VACUUM (ANALYZE) "{schema.name}".{name}', timeout_seconds=SECONDS)
    await schema.pool.execute_script("CHECKPOINT", timeout_seconds=SECONDS)


async def work(server: Server, schema: BenchSchema, num_jobs: int, insert_seconds: float) -> Cost:
    """Work the jobs that were inserted, and return their cost. Raises: AuditFailed unless each was worked once."""
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
    await schema.audit(num_jobs)
    num_worked = num_jobs - first
    return Cost(
        insert_us=insert_seconds / num_jobs * 1e6,
        server_us=server_used / num_worked * 1e6,
        client_us=used / num_worked * 1e6,
        wal_bytes=written / num_worked,
        per_second=num_worked / seconds,
    )


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


async def measure_costs(
    drain: Callable[[str, int], Awaitable[Cost]], names: Sequence[str], num_rounds: int, num_jobs: int
) -> Costs:
    """Drain jobs of each name in turns, after an uncounted round of fewer; print and return the costs."""
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for number in range(num_rounds + 1):
        for name in names[:: 1 if number % 2 else -1]:
            cost = await drain(name, num_jobs if number else max(num_jobs // 5, 100))
            if number:
                costs[name].append(cost)
                print(
                    f"{name:34}", *(f"{value:10,.1f}" for value in msgspec.structs.astuple(cost)), flush=True
                )
    return costs


def costs_table(costs: Costs, first_head: str, heads: Mapping[str, str]) -> str:
    """Return the table of costs: those of plain jobs as they are, the others as ratios. `heads` are by field of `Cost`."""
    (plain_name, plain), *others = costs.items()
    rows = [
        [plain_name, *(f"{statistics.median(_values(plain, field)):,.0f}{UNITS[field]}" for field in heads)]
    ]
    rows += [[name, *(_ratio(found, plain, field) for field in heads)] for name, found in others]
    return table([first_head, *heads.values()], rows)


def _values(costs: Sequence[Cost], field: str) -> list[float]:
    return [getattr(one, field) for one in costs]


def _ratio(costs: Sequence[Cost], plain: Sequence[Cost], field: str) -> str:
    pairs = zip(_values(costs, field), _values(plain, field), strict=True)
    # A short drain may use less of the server's time than a tick of its clock.
    ratios = [one / base for one, base in pairs if base > 0]
    if not ratios:
        return "not measured"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def about_costs(costs: Costs, num_jobs: int) -> list[str]:
    """Return how costs were measured, as list items."""
    num_rounds = len(next(iter(costs.values())))
    return [
        f"- {num_jobs:,} no-op jobs in each drain; a client with {SLOTS:,} workers.",
        "- The first line has the cost of a job, the others the ratios to it in the same round.",
        f"- {num_rounds} rounds in turns after an uncounted one: medians, with least and greatest in brackets.",
        "- Compare only the ratios: other machines have other rates.",
    ]
