"""
The measurements, each of one system in a place of its own kind: empty at its beginning, audited at its end.

Rates are jobs a second of wall time. Nothing here decides which system is measured when; see `run.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

import msgspec

from millhand.bench.place import AuditFailed, Place
from millhand.bench.process import CHILD, WorkOrder, WorkReport, worker_process
from millhand.bench.system import Inserter, System

DRAIN_SECONDS = 900.0
INSERT_BATCH = 1_000
INSERT_LANES = 4
PICKUP_WARM_UP = 10
QUIET_SECONDS = 0.3
# A backend that has nothing to do may keep what it counted for itself for ten seconds. PostgreSQL, pgstat.c.
STATISTICS_SECONDS = 11.0


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """
    What it is to insert jobs in bulk and then to work them off.

    `per_second` counts from the start of the first job to the event that tells of the last one's durable completion.
    """

    bulk_per_second: float
    cpu_us_per_job: float
    per_second: float
    rss_mib: float


class Pickup(msgspec.Struct, frozen=True, kw_only=True):
    """
    How long after its insert has returned a job is begun by a worker that idles.

    `per_second` is the rate of inserts that was reached.
    """

    latencies_ms: list[float]
    per_second: float


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker with nothing to do costs. `cpu_share` 1.0 is one core."""

    cpu_share: float
    rss_mib: float
    transactions_per_second: float


async def measure_insert(system: System, place: Place, *, num_jobs: int) -> float:
    """Insert one by one, each when the last has returned; return how many a second."""
    await place.empty()
    async with system.inserter(place.url, place.schema) as inserter:
        for n in range(PICKUP_WARM_UP):
            await inserter.insert(n)
        began = time.perf_counter()
        for n in range(num_jobs):
            await inserter.insert(n)
        return num_jobs / (time.perf_counter() - began)


async def measure_drain(
    system: System,
    place: Place,
    *,
    num_jobs: int,
    slots: int,
    with_checkpoint: bool = False,
    child: Sequence[str] = CHILD,
) -> Drain:
    """
    Insert jobs in bulk, then have a worker that is started afterwards work them all; `child` is what it runs.

    Raises: AuditFailed, WorkerDied.
    """
    await place.empty()
    bulk_per_second = await _insert_bulk(system, place, num_jobs)
    await place.settle(with_checkpoint=with_checkpoint)
    async with worker_process(_order(system, place, num_jobs, slots), child) as worker:
        report = await worker.wait_report(DRAIN_SECONDS)
    await _audit(place, report, num_jobs)
    seconds = (report.finished_ns - min(report.started_ns)) / 1e9
    return Drain(
        bulk_per_second=bulk_per_second,
        cpu_us_per_job=report.cpu_seconds / num_jobs * 1e6,
        per_second=num_jobs / seconds,
        rss_mib=report.rss_bytes / 2**20,
    )


async def measure_pickup(
    system: System, place: Place, *, num_jobs: int, per_second: float, slots: int
) -> Pickup:
    """
    Insert one by one at a rate, whether the last has returned or not, while a worker in another process idles.

    Raises: AuditFailed, WorkerDied.
    """
    await place.empty()
    total = PICKUP_WARM_UP + num_jobs
    async with (
        worker_process(_order(system, place, total, slots)) as worker,
        system.inserter(place.url, place.schema) as inserter,
    ):
        await asyncio.sleep(QUIET_SECONDS)
        for n in range(PICKUP_WARM_UP):
            await inserter.insert(n)
        await asyncio.sleep(QUIET_SECONDS)
        returned_ns = await _insert_at_rate(inserter, range(PICKUP_WARM_UP, total), per_second)
        report = await worker.wait_report(DRAIN_SECONDS)
    await _audit(place, report, total)
    pairs = zip(report.started_ns[PICKUP_WARM_UP:], returned_ns, strict=True)
    seconds = (max(returned_ns) - min(returned_ns)) / 1e9
    return Pickup(
        latencies_ms=[(started - returned) / 1e6 for started, returned in pairs],
        per_second=(num_jobs - 1) / seconds if num_jobs > 1 else 0.0,
    )


async def measure_idle(
    system: System, place: Place, *, seconds: float, slots: int, settle_seconds: float = STATISTICS_SECONDS
) -> Idle:
    """
    Count the database's transactions while a worker has nothing to do.

    They are all of the database, so nobody else should use it. Raises: WorkerDied.
    """
    await place.empty()
    async with worker_process(_order(system, place, 0, slots)) as worker:
        await asyncio.sleep(settle_seconds)  # by then the transactions of the start are counted
        before, began = await place.num_transactions(), time.perf_counter()
        await asyncio.sleep(seconds)
        after, ended = await place.num_transactions(), time.perf_counter()
        report = await worker.stop()
    return Idle(
        cpu_share=report.cpu_seconds / (ended - began + settle_seconds),
        rss_mib=report.rss_bytes / 2**20,
        transactions_per_second=max(after - before - 1, 0) / (ended - began),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all are not above; of few values that is the largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def _insert_bulk(system: System, place: Place, num_jobs: int) -> float:
    async with system.inserter(place.url, place.schema) as inserter:
        began = time.perf_counter()
        for start in range(0, num_jobs, INSERT_BATCH):
            await inserter.insert_many(range(start, min(start + INSERT_BATCH, num_jobs)))
        return num_jobs / (time.perf_counter() - began)


async def _insert_at_rate(inserter: Inserter, numbers: range, per_second: float) -> list[int]:
    """Insert each at its instant, by lanes that take turns; return when each insert had returned."""
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


async def _audit(place: Place, report: WorkReport, num_jobs: int) -> None:
    num_begun = sum(1 for started in report.started_ns if started)
    if num_begun != num_jobs or report.num_repeated:
        raise AuditFailed(
            f"each of {num_jobs:,} jobs must be begun once, "
            f"got {num_begun:,} begun and {report.num_repeated:,} repeated"
        )
    await place.audit(num_jobs)


def _order(system: System, place: Place, num_jobs: int, slots: int) -> WorkOrder:
    return WorkOrder(num_jobs=num_jobs, schema=place.schema, slots=slots, system=system.name, url=place.url)
