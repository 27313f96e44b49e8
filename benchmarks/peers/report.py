"""Tables and plot of a run's results. A ratio is taken round by round, and no one is called faster whose range overlaps."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plan import DEFAULTS, IN_SCENES, PROBES, RATES, SCENES, TUNED, VARIANTS, WAITING

Line = dict[str, Any]
NONE = "-"
MARK_BEGIN = "<!-- peers: written by benchmarks/bench_peers.py -->"
MARK_END = "<!-- end of peers -->"
NAMES = [variant.name for variant in VARIANTS]
WAITING_NAMES = [variant.name for variant in WAITING]
ON_REDIS = {variant.system for variant in VARIANTS if variant.is_on_redis}
MINE = {kind: f"millhand, {kind}" for kind in (DEFAULTS, TUNED)}


class Results:
    """The figures of a run by name, title and round."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._by: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
        self.failed: list[Line] = []
        for line in lines:
            if "error" in line["figures"]:
                self.failed.append(line)
            else:
                self._by.setdefault((line["name"], line["title"]), {})[line["round"]] = line["figures"]
        self.num_rounds = max((line["round"] for line in lines), default=0)
        self.load = max((line["load"] for line in lines), default=0.0)

    def values(self, name: str, title: str, figure: str) -> dict[int, float]:
        """Return one figure by round; empty where there is none."""
        return {number: found[figure] for number, found in self._by.get((name, title), {}).items()}

    def latencies(self, name: str, title: str) -> list[float]:
        """Return all samples of all rounds, in order."""
        return sorted(
            one for found in self._by.get((name, title), {}).values() for one in found["latencies_ms"]
        )


def spread(values: Sequence[float], written: str) -> str:
    """Return the median, and from where to where the values went."""
    if not values:
        return NONE
    middle, least, most = (
        written.format(one) for one in (statistics.median(values), min(values), max(values))
    )
    return middle if least == most else f"{middle} ({least} to {most})"


def ratios(mine: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Return the ratios of the rounds that both have."""
    return [mine[number] / theirs[number] for number in sorted(mine.keys() & theirs.keys()) if theirs[number]]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    parts = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(part)} |" for part in parts)


def titled(name: str) -> str:
    """Mark what is less durable."""
    return f"{name} ¹" if name.partition(",")[0] in ON_REDIS else name


def against(results: Results) -> str:
    """Return what is asked first: the drains in proportion to Millhand's."""
    rows = []
    for name in NAMES:
        kind = DEFAULTS if name.endswith(DEFAULTS) else TUNED
        theirs = results.values(name, "drain", "jobs_per_second")
        if name == MINE[kind] or not theirs or not results.values(MINE[kind], "drain", "jobs_per_second"):
            continue
        mine = results.values(MINE[kind], "drain", "jobs_per_second")
        verdict = "Millhand" if min(mine.values()) > max(theirs.values()) else "overlap"
        verdict = titled(name) if max(mine.values()) < min(theirs.values()) else verdict
        rows.append([f"{MINE[kind]} ÷ {titled(name)}", spread(ratios(mine, theirs), "{:.2f}"), verdict])
    return table(["drain, one process", "ratio", "ranges apart: faster is"], rows)


def drains(results: Results) -> str:
    figures: tuple[tuple[str, str, str], ...] = (
        ("jobs/s", "jobs_per_second", "{:,.0f}"),
        ("CPU, µs a job", "cpu_us_per_job", "{:.1f}"),
        ("WAL, bytes a job", "wal_bytes_per_job", "{:,.0f}"),
        ("memory, MiB", "memory_mib", "{:.0f}"),
        ("start to first job, ms", "first_ms", "{:.0f}"),
    )
    return _figures(results, "drain", NAMES, figures, "drain")


def inserts(results: Results) -> str:
    figures = (
        ("one by one, jobs/s", "insert_per_second", "{:,.0f}"),
        ("1,000 at a time, jobs/s", "bulk_per_second", "{:,.0f}"),
    )
    return _figures(results, "insert", NAMES, figures, "insert")


def idle(results: Results) -> str:
    figures = (
        ("transactions/s", "transactions_per_second", "{:.2f}"),
        ("CPU, % of one core", "cpu_percent", "{:.2f}"),
        ("memory, MiB", "memory_mib", "{:.0f}"),
    )
    return _figures(results, "idle", NAMES, figures, "idle")


def _figures(
    results: Results, title: str, names: Sequence[str], figures: Sequence[tuple[str, str, str]], head: str
) -> str:
    rows = []
    for name in names:
        cells = [
            spread([*results.values(name, title, figure).values()], written) for _, figure, written in figures
        ]
        if set(cells) != {NONE}:
            rows.append([titled(name), *cells])
    return table([head, *(shown for shown, _, _ in figures)], rows)


def pickup(results: Results) -> str:
    heads, rows = ["pickup"], []
    for rate in RATES:
        heads += [f"{rate:g}/s: reached", "p50, ms", "p95", "p99"]
    for name in NAMES:
        cells = [cell for rate in RATES for cell in _pickup_cells(results, name, f"pickup {rate:g}")]
        if set(cells) != {NONE}:
            rows.append([titled(name), *cells])
    return table(heads, rows)


def _pickup_cells(results: Results, name: str, title: str) -> list[str]:
    found = results.latencies(name, title)
    if not found:
        return [NONE] * 4
    reached = statistics.median(results.values(name, title, "rate_reached").values())
    at = [found[min(len(found) - 1, int(share * len(found)))] for share in (0.5, 0.95, 0.99)]
    return [f"{reached:.0f}", *(f"{one:.2f}" for one in at)]


def scenes(results: Results) -> str:
    names = [f"{system}, {kind}" for system, kind in IN_SCENES]
    rows = []
    for name in names:
        plain = results.values(name, "drain", "jobs_per_second")
        found = [results.values(name, title, "jobs_per_second") for title, _ in SCENES]
        cells = [spread(ratios(one, plain), "{:.2f}") for one in found]
        if set(cells) != {NONE}:
            rows.append([name, *cells])
    return table(
        ["drain ÷ its own with an empty table and one process", *(title for title, _ in SCENES)], rows
    )


def waiting(results: Results) -> str:
    figures = (("jobs/s", "jobs_per_second", "{:,.0f}"), ("CPU, µs a job", "cpu_us_per_job", "{:.1f}"))
    return _figures(results, "10 ms each", WAITING_NAMES, figures, "jobs that wait for 10 ms")


def about(results: Results, known: dict[str, Any]) -> str:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return "\n".join(
        [
            f"- Machine: {os.cpu_count()} cores ({cpu}), Linux; client, worker and servers share it.",
            f"- The load of the last minute was never above {results.load:.1f}, our own included.",
            f"- Python {sys.version.split()[0]}; PostgreSQL with its defaults, so `fsync` and `synchronous_commit` are on.",
            f"- {results.num_rounds} rounds after one that does not count; in each, every system is measured once, in turn,",
            "  in a database of its own that is new.",
            "- Shown is the median, and in brackets the least and the greatest; ratios are taken round by round.",
            "- ¹ on Redis with `appendfsync everysec`: it may lose a second of what it was told, and is no like for like.",
            *(
                f"- {one.name}: `{one.settings}`, {one.jobs:,} jobs."
                for one in (*VARIANTS, *WAITING)
                if one.settings
            ),
            *(f"- {system}: {_shown(installed)}." for system, installed in known["versions"].items()),
            *(f"- {system} was not measured: {reason}." for system, reason in known["missing"].items()),
            *(
                f"- failed: {line['name']}, {line['title']}, round {line['round']}: "
                f"{line['figures']['error'].splitlines()[-1][:200]}"
                for line in results.failed
            ),
            f"- {' '.join(PROBES.split())}",
        ]
    )


INTERESTING = {
    *("arq", "asyncpg", "celery", "chancy", "dramatiq", "kombu", "millhand", "oban"),
    *("pgqueuer", "procrastinate", "psycopg", "redis", "uvloop"),
}


def _shown(installed: dict[str, str]) -> str:
    return ", ".join(f"{name} {installed[name]}" for name in sorted(installed) if name in INTERESTING)


def write_report(lines: Sequence[Line], known: dict[str, Any], path: Path | None) -> str:
    """Return all tables, and put them between the marks of a document."""
    results = Results(lines)
    parts = [
        against(results),
        drains(results),
        inserts(results),
        pickup(results),
        idle(results),
        scenes(results),
        waiting(results),
    ]
    text = "\n\n".join([*(part for part in parts if part.count("\n") > 1), about(results, known)])
    if path is not None:
        document = path.read_text()
        before, begin, rest = document.partition(MARK_BEGIN)
        _, end, after = rest.partition(MARK_END)
        if not begin or not end:
            sys.exit(f"error: {path} must hold the marks {MARK_BEGIN!r} and {MARK_END!r}, got one without")
        path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
    return text


def write_plot(lines: Sequence[Line], path: Path) -> None:
    """Draw the drains, each a bar to its median and a line from its least to its greatest."""
    results = Results(lines)
    found = [(titled(name), [*results.values(name, "drain", "jobs_per_second").values()]) for name in NAMES]
    bars = sorted(
        ((name, values) for name, values in found if values), key=lambda one: -statistics.median(one[1])
    )
    if not bars:
        return
    most, left, width, step = max(max(values) for _, values in bars), 190, 560, 22
    height = step * len(bars) + 44
    drawn = [
        '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12"',
        f' viewBox="0 0 {left + width + 90} {height}">',
        "<title>Jobs drained per second by one process</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{left}" y="16" fill="#333">jobs/s, one process; bar: median, line: range</text>',
    ]
    for index, (name, values) in enumerate(bars):
        top, middle = 26 + index * step, statistics.median(values)
        end, least, greatest = (left + width * one / most for one in (middle, min(values), max(values)))
        colour = "#b5532a" if name.startswith("millhand") else "#7a8b99"
        drawn += [
            f'<text x="{left - 6}" y="{top + 12}" text-anchor="end" fill="#333">{name}</text>',
            f'<rect x="{left}" y="{top}" width="{end - left:.1f}" height="{step - 7}" fill="{colour}"/>',
            f'<path d="M{least:.1f} {top + 7.5}H{greatest:.1f}" stroke="#222" stroke-width="1.5"/>',
            f'<text x="{max(end, greatest) + 5:.1f}" y="{top + 12}" fill="#333">{middle:,.0f}</text>',
        ]
    path.write_text("\n".join([*drawn, "</svg>", ""]))
