"""
Measurements of one system at a time, in a schema that is emptied before each and audited after it.

Rates are jobs a second of wall time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec
from systems import System
from worker_process import CHILD, WorkOrder, WorkReport, worker_process

from millhand.bench.bench_schema import AuditFailed, BenchSchema
from millhand.bench.rates import insert_at_rate, insert_bulk, insert_singly, latencies_ms

DRAIN_SECONDS = 900.0
PICKUP_WARM_UP = 10
QUIET_SECONDS = 0.3
# An idle backend may hold back its statistics for ten seconds. PostgreSQL, pgstat.c.
STATISTICS_SECONDS = 11.0

_TRANSACTIONS = """
SELECT xact_commit + xact_rollback AS num_transactions FROM pg_stat_database WHERE datname = current_database()
"""


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """
    The cost of inserting jobs in bulk and then working them all.

    `per_second` counts from the start of the first job to the event of the last one's durable completion.
    """

    bulk_per_second: float
    cpu_us_per_job: float
    per_second: float
    rss_mib: float


class Pickup(msgspec.Struct, frozen=True, kw_only=True):
    """
    The time from an insert's return to the start of its job on an idle worker.

    `per_second` is the rate of inserts that was reached.
    """

    latencies_ms: list[float]
    per_second: float


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of an idle worker. `cpu_share` 1.0 is one core."""

    cpu_share: float
    rss_mib: float
    transactions_per_second: float


async def measure_insert(system: System, schema: BenchSchema, *, num_jobs: int) -> float:
    """Insert jobs one after the other; return the rate."""
    await schema.empty()
    async with system.inserter(schema.url, schema.name) as inserter:
        await insert_singly(inserter, range(PICKUP_WARM_UP))
        return await insert_singly(inserter, range(num_jobs))


async def measure_drain(
    system: System,
    schema: BenchSchema,
    *,
    num_jobs: int,
    slots: int,
    with_checkpoint: bool = False,
    child: Sequence[str] = CHILD,
) -> Drain:
    """
    Insert jobs in bulk, then start a worker that works them all; `child` is the program that it runs.

    Raises: AuditFailed, WorkerDied.
    """
    await schema.empty()
    async with system.inserter(schema.url, schema.name) as inserter:
        bulk_per_second = await insert_bulk(inserter, num_jobs)
    await schema.settle(with_checkpoint=with_checkpoint)
    async with worker_process(_order(system, schema, num_jobs, slots), child) as worker:
        report = await worker.wait_report(DRAIN_SECONDS)
    await _audit(schema, report, num_jobs)
    seconds = (report.finished_ns - min(report.started_ns)) / 1e9
    return Drain(
        bulk_per_second=bulk_per_second,
        cpu_us_per_job=report.cpu_seconds / num_jobs * 1e6,
        per_second=num_jobs / seconds,
        rss_mib=report.rss_bytes / 2**20,
    )


async def measure_pickup(
    system: System, schema: BenchSchema, *, num_jobs: int, per_second: float, slots: int
) -> Pickup:
    """
    Insert jobs at a fixed rate, without waiting for the previous insert, while another process's worker is idle.

    Raises: AuditFailed, WorkerDied.
    """
    await schema.empty()
    total = PICKUP_WARM_UP + num_jobs
    async with (
        worker_process(_order(system, schema, total, slots)) as worker,
        system.inserter(schema.url, schema.name) as inserter,
    ):
        await asyncio.sleep(QUIET_SECONDS)
        await insert_singly(inserter, range(PICKUP_WARM_UP))
        await asyncio.sleep(QUIET_SECONDS)
        returned_ns = await insert_at_rate(inserter, range(PICKUP_WARM_UP, total), per_second)
        report = await worker.wait_report(DRAIN_SECONDS)
    await _audit(schema, report, total)
    seconds = (max(returned_ns) - min(returned_ns)) / 1e9
    return Pickup(
        latencies_ms=latencies_ms(returned_ns, report.started_ns[PICKUP_WARM_UP:]),
        per_second=(num_jobs - 1) / seconds if num_jobs > 1 else 0.0,
    )


async def measure_idle(
    system: System,
    schema: BenchSchema,
    *,
    seconds: float,
    slots: int,
    settle_seconds: float = STATISTICS_SECONDS,
) -> Idle:
    """
    Count the transactions of the whole database while a worker is idle; no other program should use it.

    Raises: WorkerDied.
    """
    await schema.empty()
    async with worker_process(_order(system, schema, 0, slots)) as worker:
        await asyncio.sleep(settle_seconds)  # until the transactions of the start are counted
        before, began = await _num_transactions(schema), time.perf_counter()
        await asyncio.sleep(seconds)
        after, ended = await _num_transactions(schema), time.perf_counter()
        report = await worker.stop()
    return Idle(
        cpu_share=report.cpu_seconds / (ended - began + settle_seconds),
        rss_mib=report.rss_bytes / 2**20,
        transactions_per_second=max(after - before - 1, 0) / (ended - began),
    )


async def _num_transactions(schema: BenchSchema) -> int:
    """Return how many transactions the database has counted; the query itself is one of them, a second later."""
    return int((await schema.pool.fetch(_TRANSACTIONS))[0]["num_transactions"])


async def _audit(schema: BenchSchema, report: WorkReport, num_jobs: int) -> None:
    num_begun = sum(1 for started in report.started_ns if started)
    if num_begun != num_jobs or report.num_repeated:
        raise AuditFailed(
            f"each of {num_jobs:,} jobs must start once, "
            f"got {num_begun:,} started and {report.num_repeated:,} repeated"
        )
    await schema.audit(num_jobs)


def _order(system: System, schema: BenchSchema, num_jobs: int, slots: int) -> WorkOrder:
    return WorkOrder(num_jobs=num_jobs, schema=schema.name, slots=slots, system=system.name, url=schema.url)
