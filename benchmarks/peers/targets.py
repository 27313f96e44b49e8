"""The targets of Millhand, and whether a run met them."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from plan import (
    DEFAULTS,
    FURTHER,
    LONG,
    LONG_TITLE,
    MORE_RATES,
    NO_ROWS,
    RATES,
    SCENES,
    TUNED,
    VARIANTS,
    WAITING_TITLE,
)
from results import NOT_APART, ByRound, Results, are_apart, ratios, spread, table

MINE_DEFAULTS, MINE_TUNED, BASELINE = f"millhand, {DEFAULTS}", f"millhand, {TUNED}", f"baseline, {TUNED}"
MINE_NO_ROWS = f"millhand, {NO_ROWS}"
PEERS = {"pgqueuer": 1.5, "chancy": 6.0, "oban": 6.0, "procrastinate": 35.0}
MAX_MEMORY_MIB = 60.0
MAX_GROWTH = 1.1
# 0.1 s in 30 s.
MAX_IDLE_PERCENT = 0.33


@dataclass(frozen=True)
class Target:
    """A target: at least `least` or at most `most`; `found` has the figures of the rounds."""

    what: str
    found: Collection[float]
    least: float | None = None
    most: float | None = None
    written: str = "{:.2f}"
    unit: str = ""

    @property
    def wanted(self) -> str:
        sign, bound = ("≥", self.least) if self.least is not None else ("≤", self.most)
        return f"{sign} {bound:g}{self.unit}"

    def verdict(self) -> str:
        """Return whether it is met in each round, by the median only, or not."""
        met = [self._is_met(one) for one in self.found]
        if all(met):
            return "met"
        if not any(met):
            return "**not met**"
        by_median = self._is_met(statistics.median(self.found))
        return "met by the median, not in each round" if by_median else "**not met** by the median"

    def _is_met(self, value: float) -> bool:
        return value >= self.least if self.least is not None else value <= (self.most or 0.0)


def targets(results: Results) -> str:
    """Return the table of all targets that have figures."""
    rows = [
        [target.what, target.wanted, spread(target.found, target.written), target.verdict()]
        for target in _all(results)
        if target.found
    ]
    rows += [row for row in _within_noise(results) if row]
    return table(["target", "wanted", "found", "verdict"], rows, others="---")


def fastest(results: Results, system: str) -> str:
    """Return the settings of a system with the greatest median of a drain."""
    by_median = {
        variant.name: statistics.median(found.values())
        for variant in VARIANTS
        if variant.system == system and (found := results.values(variant.name, "drain", "jobs_per_second"))
    }
    return max(by_median, key=lambda name: by_median[name], default="")


def _all(results: Results) -> Iterator[Target]:
    yield from _drains(results)
    yield from _pickups(results)
    yield from _inserts(results)
    yield from _costs(results)


def _drains(results: Results) -> Iterator[Target]:
    def drains(name: str) -> ByRound:
        return results.values(name, "drain", "jobs_per_second")

    mine = drains(MINE_TUNED)
    for system, shown in (("river", "River in Go"), ("river_rust", "River in Rust")):
        river = fastest(results, system)
        found = ratios(mine, drains(river))
        yield Target(f"drain, tuned, ÷ {shown} at its fastest ({river})", found, least=1.0)
    graphile = fastest(results, "graphile_worker")
    found = ratios(drains(MINE_NO_ROWS), drains(graphile))
    yield Target(f"drain, no rows kept, ÷ graphile-worker at its fastest ({graphile})", found, least=1.0)
    for title, _ in SCENES[2:]:
        found = ratios(
            results.values(MINE_NO_ROWS, title, "jobs_per_second"),
            results.values(f"graphile_worker, {FURTHER}", title, "jobs_per_second"),
        )
        yield Target(f"the same, {title}", found, least=1.0)
    found = ratios(
        results.values("millhand, coroutines, no rows kept", WAITING_TITLE, "jobs_per_second"),
        results.values("graphile_worker, promises", WAITING_TITLE, "jobs_per_second"),
    )
    yield Target("the same, jobs that await 10 ms, 1,000 at once", found, least=1.0)
    for peer, least in PEERS.items():
        theirs = drains(f"{peer}, {TUNED}")
        yield Target(f"drain, tuned, ÷ {peer}, tuned", ratios(mine, theirs), least=least)
    yield Target("drain, tuned, ÷ the baseline with tasks", ratios(mine, drains(BASELINE)), least=0.9)
    yield Target("drain, defaults ÷ tuned", ratios(drains(MINE_DEFAULTS), mine), least=0.85)
    found = ratios(drains(MINE_DEFAULTS), drains(f"river, {DEFAULTS}"))
    yield Target("drain, defaults, ÷ River in Go, defaults", found, least=10.0)
    for name in (MINE_DEFAULTS, MINE_TUNED):
        cpu = results.values(name, "drain", "cpu_us_per_job").values()
        yield Target(f"CPU a job, {name}", cpu, most=25.0, written="{:.1f}", unit=" µs")
    mine, baseline = (
        results.values(f"{system}, coroutines", WAITING_TITLE, "jobs_per_second")
        for system in ("millhand", "baseline")
    )
    yield Target("jobs that await 10 ms, 1,000 at once, ÷ the baseline", ratios(mine, baseline), least=0.9)


def _pickups(results: Results) -> Iterator[Target]:
    for rate in sorted((*RATES, *MORE_RATES)):
        at = f"{rate:,.0f} inserts/s"
        mine, baseline = (results.latencies(name, rate, 0.5) for name in (MINE_DEFAULTS, BASELINE))
        yield Target(f"pickup p50 at {at}, defaults, ÷ the baseline", ratios(mine, baseline), most=1.3)
        p99 = results.latencies(MINE_DEFAULTS, rate, 0.99).values()
        yield Target(f"pickup p99 at {at}, defaults", p99, most=5.0, unit=" ms")


def _inserts(results: Results) -> Iterator[Target]:
    def inserts(name: str, figure: str) -> ByRound:
        return results.values(name, "insert", f"{figure}_per_second")

    for figure, shown in (("insert", "one by one"), ("bulk", "1,000 at a time")):
        found = ratios(inserts(MINE_DEFAULTS, figure), inserts(BASELINE, figure))
        yield Target(f"insert {shown} ÷ the baseline", found, least=0.9)
    found = ratios(inserts(MINE_DEFAULTS, "copy"), inserts(MINE_DEFAULTS, "bulk"))
    yield Target("insert by `COPY` ÷ insert in bulk", found, least=1.0)


def _costs(results: Results) -> Iterator[Target]:
    def idle(figure: str) -> Collection[float]:
        return results.values(MINE_DEFAULTS, "idle", figure).values()

    yield Target("idle, defaults", idle("transactions_per_second"), most=2.0, unit=" transactions/s")
    yield Target("idle, defaults", idle("cpu_percent"), most=MAX_IDLE_PERCENT, unit=" % of a core")
    long = results.values(LONG.name, LONG_TITLE, "memory_mib")
    yield Target(
        "memory after 1,000,000 jobs, defaults",
        long.values(),
        most=MAX_MEMORY_MIB,
        written="{:.0f}",
        unit=" MiB",
    )
    short = results.values(LONG.name, "drain", "memory_mib")
    yield Target("the same ÷ memory after 50,000", ratios(long, short), most=MAX_GROWTH)
    first = results.values(MINE_DEFAULTS, "drain", "first_ms").values()
    yield Target("process start to first job", first, most=400.0, written="{:.0f}", unit=" ms")
    imports = results.values(MINE_DEFAULTS, "imports", "imports_ms").values()
    yield Target("imports", imports, most=150.0, written="{:.0f}", unit=" ms")


def _within_noise(results: Results) -> Iterator[list[str]]:
    plain = results.values(MINE_TUNED, "drain", "jobs_per_second")
    for title, _ in SCENES:
        found = results.values(MINE_TUNED, title, "jobs_per_second")
        if plain and found:
            shown = spread(ratios(found, plain), "{:.2f}")
            yield [f"drain, tuned, {title}, ÷ the plain drain", "no slower", shown, no_slower(found, plain)]


def no_slower(mine: ByRound, plain: ByRound) -> str:
    """Return whether one is slower than the other by more than their noise."""
    if not are_apart(mine.values(), plain.values()):
        return f"met: {NOT_APART}"
    return "met" if min(mine.values()) > max(plain.values()) else "**not met**"
