"""One run of `millhand bench`: insert and work no-op jobs in several rounds, and return the medians."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable

import msgspec

from millhand.bench.bench_schema import AuditFailed, BenchSchema, bench_schema
from millhand.bench.noop_client import noop_inserter, noop_worker
from millhand.bench.rates import insert_at_rate, insert_bulk, insert_singly, latencies_ms, percentile
from millhand.bench.workload import Tally

DRAIN_SECONDS = 900.0
NUM_PICKUPS = 100
NUM_SINGLE_INSERTS = 1_000
NUM_WARM_UPS = 10
PICKUP_PER_SECOND = 50.0
QUIET_SECONDS = 0.3


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure: `num_jobs` in each round, worked by `slots` at a time."""

    num_jobs: int = 20_000
    num_rounds: int = 3
    slots: int = 100


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Medians: jobs a second, and the time from an insert's return to the start of its job on an idle worker."""

    bulk_inserts_per_second: float
    inserts_per_second: float
    jobs_per_second: float
    pickup_p50_ms: float
    pickup_p99_ms: float


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run, its plan and the server's version."""

    plan: Plan
    server_version: str
    millhand: Figures


class _Round(msgspec.Struct, frozen=True):
    inserts_per_second: float
    bulk_inserts_per_second: float
    jobs_per_second: float
    latencies_ms: list[float]


async def run_bench(url: str, plan: Plan, report: Callable[[str], None]) -> BenchResult:
    """
    Measure in a schema that is created for the run and dropped after it; `report` gets a line for each round.

    Raises: BenchRefused, AuditFailed, and the errors of a driver.
    """
    async with bench_schema(url) as schema:
        rounds = []
        for number in range(1, plan.num_rounds + 1):
            report(f"round {number} of {plan.num_rounds}")
            rounds.append(await _round(schema, plan))
        return BenchResult(plan=plan, server_version=await schema.server_version(), millhand=_figures(rounds))


async def _round(schema: BenchSchema, plan: Plan) -> _Round:
    inserts_per_second = await _measure_inserts(schema, min(plan.num_jobs, NUM_SINGLE_INSERTS))
    bulk_inserts_per_second, jobs_per_second = await _measure_drain(schema, plan)
    latencies = await _measure_pickup(schema, min(plan.num_jobs, NUM_PICKUPS), plan.slots)
    return _Round(inserts_per_second, bulk_inserts_per_second, jobs_per_second, latencies)


async def _measure_inserts(schema: BenchSchema, num_jobs: int) -> float:
    await schema.empty()
    async with noop_inserter(schema.url, schema.name) as inserter:
        await insert_singly(inserter, range(NUM_WARM_UPS))
        return await insert_singly(inserter, range(num_jobs))


async def _measure_drain(schema: BenchSchema, plan: Plan) -> tuple[float, float]:
    await schema.empty()
    async with noop_inserter(schema.url, schema.name) as inserter:
        bulk_per_second = await insert_bulk(inserter, plan.num_jobs)
    await schema.settle(with_checkpoint=False)
    tally = Tally(plan.num_jobs)
    async with noop_worker(schema.url, schema.name, plan.slots, tally):
        await tally.wait_end(DRAIN_SECONDS)
    await _audit(schema, tally)
    return bulk_per_second, plan.num_jobs / (tally.finished_ns - min(tally.started_ns)) * 1e9


async def _measure_pickup(schema: BenchSchema, num_jobs: int, slots: int) -> list[float]:
    """Insert jobs at a fixed rate for an idle worker; return how long each waited for its start."""
    await schema.empty()
    tally = Tally(NUM_WARM_UPS + num_jobs)
    async with (
        noop_worker(schema.url, schema.name, slots, tally),
        noop_inserter(schema.url, schema.name) as inserter,
    ):
        await asyncio.sleep(QUIET_SECONDS)
        await insert_singly(inserter, range(NUM_WARM_UPS))
        await asyncio.sleep(QUIET_SECONDS)
        returned_ns = await insert_at_rate(inserter, range(NUM_WARM_UPS, tally.num_jobs), PICKUP_PER_SECOND)
        await tally.wait_end(DRAIN_SECONDS)
    await _audit(schema, tally)
    return latencies_ms(returned_ns, tally.started_ns[NUM_WARM_UPS:])


async def _audit(schema: BenchSchema, tally: Tally) -> None:
    if tally.num_repeated:
        raise AuditFailed(f"each job must start once, got {tally.num_repeated:,} repeated starts")
    await schema.audit(tally.num_jobs)


def _figures(rounds: list[_Round]) -> Figures:
    latencies = [latency for one in rounds for latency in one.latencies_ms]
    return Figures(
        bulk_inserts_per_second=statistics.median(one.bulk_inserts_per_second for one in rounds),
        inserts_per_second=statistics.median(one.inserts_per_second for one in rounds),
        jobs_per_second=statistics.median(one.jobs_per_second for one in rounds),
        pickup_p50_ms=percentile(latencies, 0.5),
        pickup_p99_ms=percentile(latencies, 0.99),
    )
