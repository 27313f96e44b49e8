"""Write the tables of a run's results. Ratios are taken round by round, and overlapping ranges make no claim."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from document import put
from plan import (
    CONTRACTS,
    COST_CHART,
    DEFAULTS,
    GROWTH_CHART,
    IN_OPEN,
    IN_SCENES,
    LONG,
    LONG_TITLE,
    MORE_RATES,
    NO_ROWS,
    OURS,
    PACKAGES,
    PROBES,
    RATES,
    SCENES,
    SOURCES,
    TUNED,
    VARIANTS,
    WAITING,
    WAITING_TITLE,
)
from results import NONE, NOT_APART, Line, Results, by_minute, compared, spread, table
from targets import targets

MARK_BEGIN = "<!-- peers: written by benchmarks/bench_peers.py -->"
MARK_END = "<!-- end of peers -->"
PICTURES = (
    "![No-op jobs that one process drains a second, as bars with their ranges](../docs/assets/peers.svg)",
    f"![Jobs a second against CPU a job, client and server together](../docs/assets/{COST_CHART})",
    f"![Rates beside rows, beside an open transaction, and of several processes](../docs/assets/{GROWTH_CHART})",
)
NAMES = [variant.name for variant in VARIANTS]
WAITING_NAMES = [variant.name for variant in WAITING]
ON_REDIS = {variant.system for variant in VARIANTS if variant.is_on_redis}
MINE = {kind: f"millhand, {kind}" for kind in (DEFAULTS, TUNED)}


def titled(name: str) -> str:
    """Mark a system that is less durable."""
    return f"{name} ¹" if name.partition(",")[0] in ON_REDIS else name


def against(results: Results) -> str:
    """Return the summary: the drains relative to Millhand's."""
    rows = []
    for name in NAMES:
        for mine in _mine_beside(name):
            cells = [
                compared(results.values(mine, "drain", figure), results.values(name, "drain", figure))
                for figure in ("jobs_per_second", "cpu_us_per_job")
            ]
            if set(cells) != {NONE}:
                rows.append([f"{mine} ÷ {titled(name)}", *cells])
    return table(["drain, one process", "jobs/s", "CPU a job"], rows)


def _mine_beside(name: str) -> list[str]:
    """Return our variant to compare with a peer's: defaults with defaults, tuned with tuned."""
    system, _, kind = name.partition(", ")
    if system == "millhand":
        return []
    if system == "baseline":
        return list(MINE.values())
    if system == "graphile_worker" and kind != DEFAULTS:
        return [MINE[TUNED], f"millhand, {NO_ROWS}"]
    return [MINE[DEFAULTS if kind == DEFAULTS else TUNED]]


def variants_of_ours(results: Results) -> str:
    """Return each variant of Millhand relative to its tuned row."""
    rows = []
    for variant in OURS:
        cells = [
            compared(
                results.values(variant.name, "drain", figure), results.values(MINE[TUNED], "drain", figure)
            )
            for figure in ("jobs_per_second", "cpu_us_per_job", "server_us_per_job", "wal_bytes_per_job")
        ]
        if set(cells) != {NONE}:
            rows.append([f"{variant.name} ÷ {MINE[TUNED]}", *cells])
    return table(["drain", "jobs/s", "CPU a job, worker", "CPU a job, server", "WAL a job"], rows)


def against_at_rest(results: Results) -> str:
    """Return inserts and latencies relative to Millhand with defaults."""
    mine, rows = MINE[DEFAULTS], []
    for name in NAMES:
        cells = [
            compared(results.values(mine, "insert", figure), results.values(name, "insert", figure))
            for figure in ("insert_per_second", "bulk_per_second")
        ]
        cells += [
            compared(results.latencies(mine, rate, 0.5), results.latencies(name, rate, 0.5)) for rate in RATES
        ]
        if set(cells) != {NONE} and not name.startswith("millhand"):
            rows.append([titled(name), *cells])
    rates = [f"pickup p50 at {rate:g}/s" for rate in RATES]
    return table([f"{mine} ÷", "inserts one by one", "inserts in bulk", *rates], rows)


def drains(results: Results) -> str:
    figures: tuple[tuple[str, str, str], ...] = (
        ("jobs/s", "jobs_per_second", "{:,.0f}"),
        ("CPU, µs a job", "cpu_us_per_job", "{:.1f}"),
        ("server's CPU", "server_us_per_job", "{:.1f}"),
        ("WAL, bytes a job", "wal_bytes_per_job", "{:,.0f}"),
        ("memory, MiB", "memory_mib", "{:.0f}"),
        ("start to first job, ms", "first_ms", "{:.0f}"),
    )
    return _figures(results, "drain", NAMES, figures, "drain")


def long_drain(results: Results) -> str:
    figures = (
        ("jobs/s", "jobs_per_second", "{:,.0f}"),
        ("CPU, µs a job", "cpu_us_per_job", "{:.1f}"),
        ("memory, MiB", "memory_mib", "{:.0f}"),
    )
    return _figures(results, LONG_TITLE, [LONG.name], figures, f"{LONG_TITLE}, once")


def inserts(results: Results) -> str:
    figures = (
        ("one by one, jobs/s", "insert_per_second", "{:,.0f}"),
        ("1,000 at a time, jobs/s", "bulk_per_second", "{:,.0f}"),
        ("by `COPY`, jobs/s", "copy_per_second", "{:,.0f}"),
    )
    return _figures(results, "insert", NAMES, figures, "insert")


def idle(results: Results) -> str:
    figures = (
        ("transactions/s", "transactions_per_second", "{:.2f}"),
        ("CPU, % of one core", "cpu_percent", "{:.2f}"),
        ("memory, MiB", "memory_mib", "{:.0f}"),
    )
    return _figures(results, "idle", NAMES, figures, "idle, all side by side")


def _figures(
    results: Results, title: str, names: Sequence[str], figures: Sequence[tuple[str, str, str]], head: str
) -> str:
    rows = []
    for name in names:
        cells = [
            spread(results.values(name, title, figure).values(), written) for _, figure, written in figures
        ]
        if set(cells) != {NONE}:
            rows.append([titled(name), *cells])
    return table([head, *(shown for shown, _, _ in figures)], rows)


def pickup(results: Results, rate: float) -> str:
    rows = []
    for name in NAMES:
        reached = results.rates_reached(name, rate).values()
        found = [results.latencies(name, rate, share).values() for share in (0.5, 0.95, 0.99)]
        if reached:
            cells = [spread(one, "{:.2f}") for one in found]
            rows.append([titled(name), f"{statistics.median(reached):,.0f}", *cells])
    return table([f"pickup at {rate:,.0f} inserts/s", "reached", "p50, ms", "p95", "p99"], rows)


def scenes(results: Results) -> str:
    rows = []
    for name in (f"{system}, {kind}" for system, kind in IN_SCENES):
        plain = results.values(name, "drain", "jobs_per_second")
        found = [results.values(name, title, "jobs_per_second") for title, _ in SCENES]
        cells = [compared(one, plain) if plain and one else NONE for one in found]
        if set(cells) != {NONE}:
            rows.append([name, *cells])
    return table(
        ["drain ÷ its own with an empty table and one process", *(title for title, _ in SCENES)], rows
    )


def beside_open(results: Results) -> str:
    """Return the rates by minute of the open transaction, relative to the first minute's."""
    found = {
        name: rates
        for name in (f"{system}, {kind}" for system, kind in IN_OPEN)
        if (rates := by_minute(results, name))
    }
    minutes = sorted({minute for rates in found.values() for minute in rates})
    rows = [
        [
            name,
            f"{rates[min(rates)]:,.0f}",
            *(
                f"{rates[minute] / rates[min(rates)]:.2f}" if minute in rates else NONE
                for minute in minutes[1:]
            ),
        ]
        for name, rates in found.items()
    ]
    heads = ["beside an open transaction", "jobs/s in the first minute"]
    return table([*heads, *(f"minute {minute}" for minute in minutes[1:])], rows)


def contracts(results: Results) -> str:
    """Return what each measured system does for its figure."""
    measured = [name for name in NAMES if results.values(name, "drain", "jobs_per_second")]
    rows = [
        [key, *said]
        for key, said in CONTRACTS.items()
        if any(name == key or name.startswith(f"{key}, ") for name in measured)
    ]
    return table(
        ["system", "row of a job that succeeded", "handler gets", "success is written as"], rows, others="---"
    )


def waiting(results: Results) -> str:
    figures = (
        ("jobs/s", "jobs_per_second", "{:,.0f}"),
        ("CPU, µs a job", "cpu_us_per_job", "{:.1f}"),
        ("memory, MiB", "memory_mib", "{:.0f}"),
    )
    return _figures(results, WAITING_TITLE, WAITING_NAMES, figures, "jobs that wait for 10 ms")


def about(results: Results, known: dict[str, Any]) -> str:
    num_found = results.num_lines - len(results.failed)
    said = [
        f"Machine: {os.cpu_count()} cores ({_processor()}), {platform.system()}; client, worker and servers share it.",
        f"The one-minute load was never above {results.load:.1f}, the measured programs included.",
        (
            f"{_shown(known['servers'], sorted(known['servers']))}; PostgreSQL with its defaults, so `fsync` and "
            "`synchronous_commit` are on."
        ),
        (
            f"Rounds: {results.num_rounds}, after one uncounted round with few jobs. Each round measures every system "
            "once, in turn, in a new database. Idle systems run side by side."
        ),
        (
            "Figures are the median, with least and greatest in brackets; ratios are taken round by round. "
            f"*{NOT_APART.capitalize()}*: the two ranges overlap, and neither is better."
        ),
        "¹ on Redis with `appendfsync everysec`: it may lose the last second, so it is not an equal comparison.",
        (
            f"{num_found:,} of {results.num_lines:,} measurements have figures. A drain counts only if an audit finds that "
            "every job started once and is finished."
        ),
    ]
    said += [_failure(line) for line in results.failed]
    said += [f"{system} was not measured: {reason}." for system, reason in known["missing"].items()]
    return "\n".join(f"- {one}" for one in said)


def _failure(line: Line) -> str:
    why = line["figures"]["error"].splitlines()[-1][:200]
    return f"failed: {line['name']}, {line['title']}, round {line['round']}: {why}"


def settings(known: dict[str, Any]) -> str:
    """Return versions, settings and their sources by system."""
    rows = []
    for system, source in SOURCES.items():
        if system in known["versions"]:
            set_so = [
                f"{one.kind}: `{shown}`"
                for one in (*VARIANTS, *WAITING)
                if one.system == system and (shown := _settings(one.settings))
            ]
            rows.append(
                [
                    system,
                    _shown(known["versions"][system], PACKAGES[system]),
                    "; ".join(set_so) or NONE,
                    source,
                ]
            )
    rows += [
        [place, _shown(installed, PACKAGES["millhand"]), NONE, NONE]
        for place, installed in known["versions"].items()
        if place not in SOURCES
    ]
    return table(
        ["system", "versions", "settings other than the defaults", "where these come from"],
        rows,
        others="---",
    )


def _settings(found: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {' '.join(value) if isinstance(value, list) else value}" for name, value in found.items()
    )


def _shown(installed: dict[str, str], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {installed[name]}" for name in names if name in installed)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def write_report(lines: Sequence[Line], known: dict[str, Any], path: Path | None) -> str:
    """Return all tables, and write them between the marks of a document."""
    results = Results(lines)
    tables = [
        targets(results),
        against(results),
        variants_of_ours(results),
        drains(results),
        long_drain(results),
        against_at_rest(results),
    ]
    tables += [inserts(results), *(pickup(results, rate) for rate in sorted((*RATES, *MORE_RATES)))]
    tables += [idle(results), scenes(results), beside_open(results), waiting(results)]
    tables += [contracts(results), settings(known)]
    parts = [
        *(PICTURES if path is not None else ()),
        about(results, known),
        *(one for one in tables if one.count("\n") > 1),
        " ".join(PROBES.split()),
    ]
    text = "\n\n".join(parts)
    if path is not None:
        put(path, text, MARK_BEGIN, MARK_END)
    return text
