"""
How fast Millhand is, beside a floor of bare asyncpg, on a PostgreSQL of its own with durable default settings.

    python benchmarks/throughput.py --write docs/performance.md

Systems take turns, round by round, after one round that does not count; nothing is dropped. README.md says more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from document import put, table

from millhand.bench.floor import FETCH_SIZE, FLOOR_SLOTS
from millhand.bench.measure import (
    Drain,
    Idle,
    measure_drain,
    measure_idle,
    measure_insert,
    measure_pickup,
    percentile,
)
from millhand.bench.place import Place, bench_place
from millhand.bench.system import INLINE, LIFE, MILL, System
from millhand.embedded import embedded_postgres

NUM_ROUNDS = 5
NUM_JOBS = 50_000
NUM_SINGLE_INSERTS = 2_000
# Inserts a second, and how many of them a round: never less than 15 s of the slow ones, or more than needed of the fast.
PICKUP_RATES = ((1, 15), (10, 100), (50, 300), (200, 1_000), (1_000, 3_000))
IDLE_SECONDS = 20.0
MARK_BEGIN = "<!-- figures: written by benchmarks/throughput.py -->"
MARK_END = "<!-- end of figures -->"
PARTS = ("drain", "insert", "pickup", "idle")


@dataclass(frozen=True)
class Contender:
    """A system with one setting."""

    title: str
    system: System
    slots: int


FLOOR_INLINE = Contender("floor, inline", INLINE, FLOOR_SLOTS)
FLOOR_LIFE = Contender("floor, full life", LIFE, FLOOR_SLOTS)
DEFAULTS = Contender("Millhand, defaults", MILL, MILL.slots)
WIDE = Contender("Millhand, 4,000 workers", MILL, 4_000)
DRAINERS = (FLOOR_INLINE, FLOOR_LIFE, DEFAULTS, WIDE)
PAIR = (FLOOR_LIFE, DEFAULTS)


@dataclass
class Results:
    """Everything that was counted, by contender, in the order of the rounds."""

    drains: dict[str, list[Drain]] = field(default_factory=lambda: defaultdict(list))
    idles: dict[str, list[Idle]] = field(default_factory=lambda: defaultdict(list))
    inserts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    pickups: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    reached: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))


async def measure(place: Place, options: argparse.Namespace) -> Results:
    """Make one round that is forgotten and then those that count."""
    warm_up, counted = Results(), Results()
    for number in range(options.rounds + 1):
        tell(f"round {number} of {options.rounds}" if number else "warming up")
        await measure_round(place, counted if number else warm_up, options, is_warm_up=not number)
    return counted


async def measure_round(
    place: Place, results: Results, options: argparse.Namespace, *, is_warm_up: bool
) -> None:
    parts = ("drain", "insert") if is_warm_up else options.only
    if "drain" in parts:
        for one in DRAINERS:
            drain = await measure_drain(
                one.system, place, num_jobs=options.jobs, slots=one.slots, with_checkpoint=True
            )
            results.drains[one.title].append(drain)
            tell(f"  {one.title}: {drain.per_second:,.0f} jobs/s, {drain.cpu_us_per_job:.1f} µs of CPU a job")
    if "insert" in parts:
        for one in PAIR:
            inserts = await measure_insert(one.system, place, num_jobs=NUM_SINGLE_INSERTS)
            results.inserts[one.title].append(inserts)
            tell(f"  {one.title}: {inserts:,.0f} inserts/s")
    if "pickup" in parts:
        for rate, num_jobs in PICKUP_RATES:
            for one in PAIR:
                await measure_pickup_of(one, place, results, rate, num_jobs)
    if "idle" in parts:
        for one in PAIR:
            idle = await measure_idle(one.system, place, seconds=IDLE_SECONDS, slots=one.slots)
            results.idles[one.title].append(idle)
            tell(f"  {one.title}: {idle.transactions_per_second:.2f} transactions/s when idle")


async def measure_pickup_of(one: Contender, place: Place, results: Results, rate: int, num_jobs: int) -> None:
    pickup = await measure_pickup(
        one.system, place, num_jobs=num_jobs, per_second=float(rate), slots=one.slots
    )
    results.pickups[one.title, rate].extend(pickup.latencies_ms)
    results.reached[one.title, rate].append(pickup.per_second)
    p50, p99 = (percentile(pickup.latencies_ms, share) for share in (0.5, 0.99))
    tell(f"  {one.title}: picked up after {p50:.2f} ms, p99 {p99:.2f}, at {rate} inserts/s")


def report(results: Results, about: Sequence[str]) -> str:
    """Return everything as Markdown."""
    sections = (drain_table, ratio_table, insert_table, pickup_table, idle_table)
    return "\n\n".join(["\n".join(about), *(text for section in sections if (text := section(results)))])


def drain_table(results: Results) -> str:
    if not results.drains:
        return ""
    rows = [
        [
            one.title,
            spread([drain.per_second for drain in results.drains[one.title]], thousands),
            spread([drain.cpu_us_per_job for drain in results.drains[one.title]], "{:.1f}".format),
            spread([drain.rss_mib for drain in results.drains[one.title]], "{:.0f}".format),
        ]
        for one in DRAINERS
    ]
    return table(["drain", "jobs/s", "CPU, µs a job", "memory, MiB"], rows)


def ratio_table(results: Results) -> str:
    if not results.drains:
        return ""
    floor = results.drains[FLOOR_LIFE.title]
    rows = []
    for one in (DEFAULTS, WIDE):
        pairs = list(zip(results.drains[one.title], floor, strict=True))
        rows.append(
            [
                one.title,
                spread([ours.per_second / theirs.per_second for ours, theirs in pairs], "{:.2f}".format),
                spread(
                    [ours.cpu_us_per_job / theirs.cpu_us_per_job for ours, theirs in pairs], "{:.2f}".format
                ),
            ]
        )
    return table(["ratio to the floor with full life", "jobs/s", "CPU a job"], rows)


def insert_table(results: Results) -> str:
    if not results.inserts:
        return ""
    ones = [results.inserts[one.title] for one in PAIR]
    rows = [["one by one, inserts/s", *(spread(one, thousands) for one in ones), ratios(*ones)]]
    if results.drains:
        bulks = [[drain.bulk_per_second for drain in results.drains[one.title]] for one in PAIR]
        rows.append(["1,000 at a time, jobs/s", *(spread(bulk, thousands) for bulk in bulks), ratios(*bulks)])
    return table(["insert", "floor", "Millhand", "ratio"], rows)


def pickup_table(results: Results) -> str:
    if not results.pickups:
        return ""
    rows = []
    for rate, _ in PICKUP_RATES:
        floor, mill = (results.pickups[one.title, rate] for one in PAIR)
        reached = [f"{statistics.median(results.reached[one.title, rate]):,.0f}" for one in PAIR]
        rows.append([f"{rate:,}", " / ".join(reached), *latencies(floor), *latencies(mill), f"{len(mill):,}"])
    heads = ["wanted inserts/s", "reached, floor / Millhand"]
    heads += ["floor p50, ms", "p99", "Millhand p50, ms", "p99", "jobs each"]
    return table(heads, rows)


def idle_table(results: Results) -> str:
    if not results.idles:
        return ""
    rows = [
        [
            one.title,
            spread([idle.transactions_per_second for idle in results.idles[one.title]], "{:.2f}".format),
            spread([100 * idle.cpu_share for idle in results.idles[one.title]], "{:.2f}".format),
            spread([idle.rss_mib for idle in results.idles[one.title]], "{:.0f}".format),
        ]
        for one in PAIR
    ]
    return table(["idle", "transactions/s", "CPU, % of one core", "memory, MiB"], rows)


def latencies(values: Sequence[float]) -> list[str]:
    return [f"{percentile(values, share):.2f}" for share in (0.5, 0.99)]


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> str:
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)], "{:.2f}".format)


def spread(values: Sequence[float], written: Callable[[float], str]) -> str:
    """Return the median, and from where to where the values went."""
    return f"{written(statistics.median(values))} ({written(min(values))} to {written(max(values))})"


def thousands(value: float) -> str:
    return f"{value:,.0f}"


def about_run(server: str, options: argparse.Namespace) -> list[str]:
    """Return what the reader must know of machine, versions and settings."""
    return [
        *about_machine(server),
        f"- {options.rounds} rounds, systems in turn, after one that does not count; drains of {options.jobs:,} jobs.",
        f"- Floor: fetch {FETCH_SIZE:,}, {FLOOR_SLOTS:,} slots.",
        "- Shown is the median, and in brackets the least and the greatest.",
    ]


def about_machine(server: str) -> list[str]:
    """Return on what it was measured."""
    machine = f"{os.cpu_count()} cores ({processor()}), {memory_gib():.0f} GiB, {platform.system()}"
    versions = f"Python {platform.python_version()}, asyncpg {version('asyncpg')}"
    return [
        f"- Machine: {machine}; client, worker and server share it.",
        f"- PostgreSQL {server} with default settings, so `fsync` and `synchronous_commit` are on.",
        f"- {versions}, the standard event loop.",
    ]


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


@contextlib.contextmanager
def server_url(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="millhand-bench-") as directory:
        Path(directory).chmod(0o755)  # the user that a root's server runs as has to enter it
        with embedded_postgres(Path(directory)) as server:
            yield server.url


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS)
    parser.add_argument("--jobs", type=int, default=NUM_JOBS, help="jobs a drain")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="measure no more than this")
    parser.add_argument("--database-url", help="a server of yours instead; its role must be a superuser's")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the marks of FILE")
    return parser.parse_args()


async def run(url: str, options: argparse.Namespace) -> str:
    async with bench_place(url) as place:
        results = await measure(place, options)
        return report(results, about_run(await place.server_version(), options))


def main() -> None:
    options = parsed_options()
    with server_url(options.database_url) as url:
        text = asyncio.run(run(url, options))
    if options.write is not None:
        put(options.write, text, MARK_BEGIN, MARK_END)
    print(text)


if __name__ == "__main__":
    main()
