"""
Measure "1,000 jobs, then one callback" in Millhand and its peers: how soon the callback starts, and what kills do to it.

    .venv/bin/python benchmarks/flow_peers.py --rounds 3 --write benchmarks/peers.md

In each round every system is measured once, in turn, in a new database of one server. First, idle workers get one
fan-out after the other. Then workers get smaller fan-outs while one process a second is killed and started again; an
audit of the journal, which the jobs write, counts callbacks that were lost, ran twice or ran before all parts had ended.
`peers/flow_plan.py` has the settings. Each peer has an environment of its own, as for `bench_peers.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import peer_runs as runs  # noqa: E402
from bench_peers import log, servers  # noqa: E402 - beside this file
from contender import about_machine  # noqa: E402
from environments import Found, prepared, versions  # noqa: E402
from flow import LOST_SECONDS  # noqa: E402
from flow_plan import CONTRACT_HEADS, CONTRACTS, FIRST, NOT_MEASURED, WAYS, Way  # noqa: E402
from plan import PACKAGES  # noqa: E402
from results import NONE, ratios, spread, table  # noqa: E402

BEGIN_MARK = "<!-- peers' flows: written by benchmarks/flow_peers.py -->"
END_MARK = "<!-- end of peers' flows -->"
LIMIT_SECONDS = 1_200.0
CALLBACK, KILLS = "callback", "kills"
PARTS = (CALLBACK, KILLS)
NUM_PROCESSES = {CALLBACK: 2, KILLS: 3}
NUM_FAN_OUTS = 5
PART_MS = 10
# Longer than any system needs until a job of a killed worker runs again: it may be a second run.
REST_SECONDS = 25.0
AT_LEAST_ONCE = (
    "All but Celery's defaults run a job at least once. A process may be killed after a job has ended and before that is "
    "written, so jobs run twice, and callbacks too."
)


def orders(options: argparse.Namespace, number: int) -> dict[str, dict[str, Any]]:
    """Return the orders of a round."""
    return {
        CALLBACK: {"what": "fan_out", "fan_outs": NUM_FAN_OUTS, "jobs": options.parts},
        KILLS: {
            "what": "kills",
            "fan_outs": options.fan_outs,
            "jobs": options.small_parts,
            "rest": options.rest,
            "seconds": options.seconds,
            "seed": options.seed + number,
        },
    }


def measured(
    python: str, way: Way, title: str, order: Mapping[str, Any], places: Mapping[str, str]
) -> dict[str, Any]:
    """Measure once in a process of its own; a failure is a result too."""
    settings = {**way.settings, **({"wait_ms": PART_MS} if title == KILLS else {})}
    asked = {**order, "processes": NUM_PROCESSES[title]}
    return runs.measured(
        python, f"flow_{way.system}.py", asked, places, settings, limit_seconds=LIMIT_SECONDS
    )


def run(options: argparse.Namespace) -> None:
    """Measure all rounds, and keep each result as a line of the file."""
    ways = [way for way in WAYS if not options.systems or way.system in options.systems]
    found = _prepared(ways)
    with servers(any(way.is_on_redis for way in ways if way.system in found.pythons)) as places:
        known = {"about": about(options, places, versions(found)), "missing": found.missing}
        options.results.write_text(json.dumps(known) + "\n")
        for number in range(1, options.rounds + 1):
            for way in ways[:: 1 if number % 2 else -1]:
                for title in options.only if way.system in found.pythons else ():
                    order = orders(options, number)[title]
                    figures = measured(found.pythons[way.system], way, title, order, places)
                    line = {
                        "name": way.name,
                        "title": title,
                        "round": number,
                        "figures": figures,
                        "load": os.getloadavg()[0],
                    }
                    with options.results.open("a") as results:
                        results.write(json.dumps(line) + "\n")
                    log(f"round {number}: {way.name}: {title}: {figures}")


def _prepared(ways: Sequence[Way]) -> Found:
    has_redis = shutil.which("redis-server") is not None
    found = prepared(way.variant for way in ways if has_redis or not way.is_on_redis)
    if not has_redis:
        without = {way.system for way in ways if way.is_on_redis}
        found.missing.update(dict.fromkeys(without, "redis-server must be installed, got none"))
    for system, reason in found.missing.items():
        log(f"{system} is not measured: {reason}")
    return found


def about(
    options: argparse.Namespace, places: Mapping[str, str], installed: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Return a description of the machine, the packages and the measurement, as list items."""
    import databases  # noqa: PLC0415 - it reads the place from the environment

    os.environ["BENCH_DATABASE"] = places["BENCH_DATABASE"]
    peers = {
        way.shown: of[package]
        for way in WAYS
        if way.shown != FIRST
        and (package := PACKAGES[way.system][1]) in (of := installed.get(way.system, {}))
    }
    return [
        *about_machine(str(databases.ask("SHOW server_version")))[:2],
        *([f"- Peers: {', '.join(f'{name} {number}' for name, number in peers.items())}."] if peers else []),
        *(
            ["- Redis syncs its log once a second, so it may lose a second."]
            if "BENCH_REDIS" in places
            else []
        ),
        (
            f"- *Callback*: fan-outs of {options.parts:,} no-op jobs, {NUM_FAN_OUTS} a round, "
            f"in {NUM_PROCESSES[CALLBACK]} idle worker processes."
        ),
        (
            f"- *Kills*: {options.fan_outs} fan-outs a round, of {options.small_parts} jobs of {PART_MS} ms, within "
            f"{options.seconds:g} s in {NUM_PROCESSES[KILLS]} worker processes. Each second, `kill -9` ends a process "
            "with its children, and another one starts in its place."
        ),
        f"- A callback is *lost* if it has not run when no job has run for {LOST_SECONDS:.0f} s.",
    ]


class Figures:
    """The figures of a run by way and title."""

    def __init__(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self._by: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
        self.failed: dict[tuple[str, str], str] = {}
        for line in lines:
            key, figures = (line["name"], line["title"]), line["figures"]
            if "error" in figures:
                self.failed[key] = " ".join(figures["error"].split())
            else:
                self._by.setdefault(key, {})[line["round"]] = figures

    def medians(self, way: Way, figure: str) -> dict[int, float]:
        """Return the median of a list of figures, by round."""
        found = self._by.get((way.name, CALLBACK), {})
        return {number: statistics.median(of[figure]) for number, of in found.items()}

    def sum(self, way: Way, figure: str) -> int:
        """Return the sum of a count over all rounds of kills."""
        return sum(int(of[figure]) for of in self._by.get((way.name, KILLS), {}).values())

    def longest(self, way: Way, figure: str) -> float:
        """Return the greatest figure of all rounds of kills."""
        return max((float(of[figure]) for of in self._by.get((way.name, KILLS), {}).values()), default=0.0)

    def has(self, way: Way, title: str) -> bool:
        return (way.name, title) in self._by


def callback_table(found: Figures) -> str:
    """Return how soon callbacks start: ratios to Millhand's of the same round, and times."""
    first = next((way for way in WAYS if way.shown == FIRST), None)
    heads = [
        "way", f"insert to callback, ÷ {FIRST}", "insert to callback", "last part's end to callback",
        "insert",
    ]  # fmt: skip
    rows = []
    for way in WAYS:
        if found.has(way, CALLBACK):
            callbacks = found.medians(way, "callback_ms")
            of_first = ratios(callbacks, found.medians(first, "callback_ms")) if first else []
            times = [
                spread(found.medians(way, figure).values(), "{:,.0f} ms")
                for figure in ("callback_ms", "join_ms", "insert_ms")
            ]
            rows.append([way.name, NONE if way is first else spread(of_first, "{:.1f}"), *times])
    return table(heads, rows)


def kills_table(found: Figures) -> str:
    """Return what became of callbacks while workers were killed, over all rounds."""
    heads = [
        "way", "callbacks", "kills", "callbacks lost", "parts lost", "callbacks before all parts had ended",
        "callbacks that ran twice", "parts that ran twice", "last callback after the last kill",
    ]  # fmt: skip
    rows = [
        [
            way.name,
            *(f"{found.sum(way, figure):,}" for figure in ("fan_outs", "kills")),
            *(_marked(found.sum(way, figure)) for figure in ("lost", "parts_lost", "early")),
            *(f"{found.sum(way, figure):,}" for figure in ("twice", "parts_again")),
            f"{found.longest(way, 'seconds_after'):.0f} s",
        ]
        for way in WAYS
        if found.has(way, KILLS)
    ]
    return table(heads, rows)


def _marked(count: int) -> str:
    return f"**{count:,}**" if count else "0"


def contracts_table() -> str:
    """Return the contract of each way that is measured."""
    return table(CONTRACT_HEADS, [[name, *said] for name, said in CONTRACTS.items()], others="---")


def report(lines: Sequence[Mapping[str, Any]], known: Mapping[str, Any]) -> str:
    """Return the tables of all figures as Markdown."""
    found = Figures(lines)
    num_rounds = len({line["round"] for line in lines})
    most_load = max(line["load"] for line in lines)
    parts = [
        "\n".join(
            [
                *known["about"],
                (
                    f"- Rounds: {num_rounds}, systems in turns. Times are medians of a round, with least and greatest in "
                    "brackets; counts are sums."
                ),
                f"- The load was {most_load:.0f} at most. Compare only the ratios; on a loaded machine they are larger.",
            ]
        )
    ]
    for title, text in (
        ("How soon the callback starts:", callback_table(found)),
        ("While workers are killed:", kills_table(found)),
    ):
        parts += [f"**{title}**", text]
    parts.append(AT_LEAST_ONCE)
    parts += [f"{name}, {title}, failed: {reason}" for (name, title), reason in found.failed.items()]
    parts += ["**What each does:**", contracts_table(), "**Not measured:**", not_measured(known["missing"])]
    return "\n\n".join(parts)


def not_measured(missing: Mapping[str, str]) -> str:
    """Return the systems without figures and the reasons, as list items."""
    said = {**NOT_MEASURED, **{way.shown: missing[way.system] for way in WAYS if way.system in missing}}
    return "\n".join(f"- {name}: {reason}." for name, reason in said.items())


def parsed_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = runs.peers_parser(__doc__)
    parser.add_argument("--parts", type=int, default=1_000, help="of a fan-out whose callback is timed")
    parser.add_argument("--small-parts", type=int, default=100, help="of a fan-out while workers are killed")
    parser.add_argument("--fan-outs", type=int, default=60, help="while workers are killed, a round")
    parser.add_argument("--seconds", type=float, default=30.0, help="of kills, a round")
    parser.add_argument(
        "--rest", type=float, default=REST_SECONDS, help="seconds after the last callback, for second runs"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the killed processes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    options.results = options.keep / "flow-peers.jsonl"
    return options


def main() -> None:
    runs.run_and_report(parsed_options(), run, report, BEGIN_MARK, END_MARK)


if __name__ == "__main__":
    main()
