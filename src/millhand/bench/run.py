"""One run of `millhand bench`: Millhand and the floor in turn, and the figures that come of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import msgspec

from millhand.bench.measure import Drain, Pickup, measure_drain, measure_insert, measure_pickup, percentile
from millhand.bench.place import Place, bench_place
from millhand.bench.system import LIFE, MILL, System

NUM_PICKUPS = 100
NUM_ROUNDS = 3
NUM_SINGLE_INSERTS = 1_000
PICKUP_PER_SECOND = 50.0

Tell = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure: `num_jobs` a drain, `slots` of the worker, and whether the floor is measured beside it."""

    num_jobs: int = 20_000
    num_rounds: int = NUM_ROUNDS
    slots: int = MILL.slots
    with_floor: bool = True


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """
    Medians of a run.

    Units: inserts and jobs a second; milliseconds.
    """

    bulk_inserts_per_second: float
    inserts_per_second: float
    jobs_per_second: float
    pickup_p50_ms: float
    pickup_p99_ms: float


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a run has found. `ratio` is Millhand's to the floor's, of rates the median of the rounds' own.

    Without the floor there is neither.
    """

    plan: Plan
    server_version: str
    millhand: Figures
    floor: Figures | None = None
    ratio: Figures | None = None


class _Round(msgspec.Struct, frozen=True):
    inserts_per_second: float
    drain: Drain
    pickup: Pickup


async def run_bench(url: str, plan: Plan, tell: Tell) -> BenchResult:
    """
    Measure in a schema that is made for it and dropped at the end; `tell` is called with what is being done.

    Raises: BenchRefused, AuditFailed, WorkerDied, and what a driver raises.
    """
    async with bench_place(url) as place:
        engine, floor = [], []
        for number in range(1, plan.num_rounds + 1):
            tell(f"round {number} of {plan.num_rounds}: millhand")
            engine.append(await _round(MILL, place, plan, plan.slots))
            if plan.with_floor:
                tell(f"round {number} of {plan.num_rounds}: floor")
                floor.append(await _round(LIFE, place, plan, LIFE.slots))
        return BenchResult(
            plan=plan,
            server_version=await place.server_version(),
            millhand=_figures(engine),
            floor=_figures(floor) if floor else None,
            ratio=_ratio(engine, floor) if floor else None,
        )


async def _round(system: System, place: Place, plan: Plan, slots: int) -> _Round:
    inserts_per_second = await measure_insert(system, place, num_jobs=min(plan.num_jobs, NUM_SINGLE_INSERTS))
    drain = await measure_drain(system, place, num_jobs=plan.num_jobs, slots=slots)
    pickup = await measure_pickup(
        system, place, num_jobs=min(plan.num_jobs, NUM_PICKUPS), per_second=PICKUP_PER_SECOND, slots=slots
    )
    return _Round(inserts_per_second, drain, pickup)


def _figures(rounds: list[_Round]) -> Figures:
    """Return the medians of the rates, and the percentiles of all pickups together."""
    latencies = _latencies(rounds)
    return Figures(
        bulk_inserts_per_second=statistics.median(one.drain.bulk_per_second for one in rounds),
        inserts_per_second=statistics.median(one.inserts_per_second for one in rounds),
        jobs_per_second=statistics.median(one.drain.per_second for one in rounds),
        pickup_p50_ms=percentile(latencies, 0.5),
        pickup_p99_ms=percentile(latencies, 0.99),
    )


def _ratio(engine: list[_Round], floor: list[_Round]) -> Figures:
    """Return the medians of the ratios, each of one round: the machine changes less in a round than between two."""

    def median(rate: Callable[[_Round], float]) -> float:
        return statistics.median(rate(one) / rate(other) for one, other in zip(engine, floor, strict=True))

    ours, theirs = _latencies(engine), _latencies(floor)
    return Figures(
        bulk_inserts_per_second=median(lambda one: one.drain.bulk_per_second),
        inserts_per_second=median(lambda one: one.inserts_per_second),
        jobs_per_second=median(lambda one: one.drain.per_second),
        pickup_p50_ms=percentile(ours, 0.5) / percentile(theirs, 0.5),
        pickup_p99_ms=percentile(ours, 0.99) / percentile(theirs, 0.99),
    )


def _latencies(rounds: list[_Round]) -> list[float]:
    return [latency for one in rounds for latency in one.pickup.latencies_ms]
