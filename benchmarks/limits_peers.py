"""
Measure "at most 40 jobs at once in all processes", and "one at a time of each tenant", in Millhand and its peers.

    .venv/bin/python benchmarks/limits_peers.py --rounds 3 --write benchmarks/peers.md

In each round every system is measured once, in turn, in a new database of one server: jobs of 100 ms in four worker
processes, and then in five, as in a deploy that adds one. Each job records its begin and its end with one clock.
Each peer has an environment of its own, as for `bench_peers.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import peer_runs as runs  # noqa: E402
from bench_peers import log, servers  # noqa: E402 - beside this file
from contender import about_machine  # noqa: E402
from environments import prepared, versions  # noqa: E402
from plan import Variant  # noqa: E402
from results import ratios, spread, table  # noqa: E402

BEGIN_MARK = "<!-- peers' limits: written by benchmarks/limits_peers.py -->"
END_MARK = "<!-- end of peers' limits -->"
NUM_PROCESSES = 4
AT_ONCE = 40
NUM_TENANTS = 50
JOB_SECONDS = 0.1
REST_SECONDS = 1.0
# What four processes need for their first jobs, and then the fifth. Jobs for this time must be there too.
START_SECONDS = 11.0
LIMIT_SECONDS = 240.0
ALL, EACH, LOCKS = "all processes", "each process", "all processes, by lock"


@dataclass(frozen=True)
class Limited:
    """A system with one way to limit jobs; `holds_in` says where the limit counts."""

    system: str
    shown: str
    how: str
    holds_in: str
    settings: dict[str, Any]
    keys: int = 1

    @property
    def name(self) -> str:
        return f"{self.shown}, {self.how}"

    @property
    def variant(self) -> Variant:
        """Return what `peers/environments.py` needs."""
        return Variant(self.system, self.how, 0, self.settings)


@dataclass(frozen=True)
class Task:
    """What is asked of all systems: the slots of the limit, and the ways to have it."""

    title: str
    slots: int
    worst: str
    most: str
    allowed: int
    ways: tuple[Limited, ...]


SHARE = AT_ONCE // NUM_PROCESSES
EVENT_LOOP = {"uvloop": True}
QUEUE = Task(
    f"At most {AT_ONCE} jobs of a queue at once",
    AT_ONCE,
    "most at once",
    "most",
    AT_ONCE,
    (
        Limited(
            "millhand", "Millhand", f"`Limit(at_once={AT_ONCE})`", ALL,
            {"workers": AT_ONCE, "limit": {"at_once": AT_ONCE}},
        ),
        Limited("millhand", "Millhand", f"`max_workers={SHARE}`, no limit", EACH, {"workers": SHARE}),
        Limited(
            "pgqueuer", "pgqueuer", f"`concurrency_limit={AT_ONCE}`", ALL,
            {"concurrency_limit": AT_ONCE, "batch_size": AT_ONCE, **EVENT_LOOP},
        ),
        Limited(
            "dbos", "DBOS", f"`global_concurrency={AT_ONCE}`, defaults", ALL, {"global_concurrency": AT_ONCE}
        ),
        Limited(
            "dbos", "DBOS", f"`global_concurrency={AT_ONCE}`, polls each 0.1 s", ALL,
            {"global_concurrency": AT_ONCE, "polling_interval_sec": 0.1},
        ),
        Limited(
            "procrastinate", "procrastinate", f"{AT_ONCE} locks, one for each slot", LOCKS,
            {"concurrency": AT_ONCE, "locks": True, "pool": 20, **EVENT_LOOP}, AT_ONCE,
        ),
        Limited(
            "procrastinate", "procrastinate", f"`concurrency={SHARE}`", EACH,
            {"concurrency": SHARE, "pool": 20, **EVENT_LOOP},
        ),
        Limited(
            "chancy", "chancy", f"`Queue(concurrency={SHARE})`", EACH,
            {"concurrency": SHARE, "eager_polling": True, "polling_interval": 1, **EVENT_LOOP},
        ),
        Limited("oban", "Oban for Python", f"a queue's limit of {SHARE}", EACH, {"limit": SHARE, **EVENT_LOOP}),
    ),
)  # fmt: skip
TENANTS = Task(
    f"One job at a time of each of {NUM_TENANTS} tenants",
    NUM_TENANTS,
    "most at once of a tenant",
    "most_of_a_key",
    1,
    (
        Limited(
            "millhand", "Millhand", '`Limit(at_once=1, by_args=["key"])`', ALL,
            {"workers": NUM_TENANTS, "limit": {"at_once": 1, "by_args": ["key"]}}, NUM_TENANTS,
        ),
        Limited(
            "pgqueuer", "pgqueuer", "an entrypoint for each tenant, `concurrency_limit=1`", ALL,
            {"concurrency_limit": 1, "batch_size": NUM_TENANTS, **EVENT_LOOP}, NUM_TENANTS,
        ),
        Limited(
            "dbos", "DBOS", "`partition_concurrency=1`, polls each 0.1 s", ALL,
            {"partition_concurrency": 1, "polling_interval_sec": 0.1}, NUM_TENANTS,
        ),
        Limited(
            "procrastinate", "procrastinate", "a lock for each tenant", ALL,
            {"concurrency": NUM_TENANTS, "locks": True, "pool": 20, **EVENT_LOOP}, NUM_TENANTS,
        ),
    ),
)  # fmt: skip
TASKS = (QUEUE, TENANTS)
SETTINGS = (
    "Other settings than the tables name: pgqueuer fetches batches as large as the limit, procrastinate has 20 connections "
    "for each process, and chancy polls again after each job. All but DBOS run on uvloop."
)
CONTRACT_HEADS = (
    "system", "a number at once counts in", "by key", "rate in all processes", "order of starts",
    "changed while it runs", "slot of a killed worker",
)  # fmt: skip
CONTRACTS: Mapping[str, tuple[str, ...]] = {
    "Millhand": (
        "all processes", "any fields of the args, and the kind; keys take turns", "yes, a token bucket",
        "priority, due time, id; `in_order` also holds it through retries", "yes",
        "kept until the leader declares the worker dead, within 20 s",
    ),
    "pgqueuer": (
        "all processes", "no: an entrypoint for each key, declared in each worker", "no",
        "priority, id", "no: restart all workers", "kept; another worker takes job and slot after 30 s",
    ),
    "DBOS": (
        "all processes", "a partition key for each workflow", "yes, by queue and partition",
        "priority, time of insert", "yes",
        "kept until a process with the same executor ID starts, or Conductor, a service, recovers it",
    ),
    "procrastinate": (
        "each process; a lock, whose number is 1, in all", "a lock for each job", "no",
        "priority, id; a lock also holds it through retries", "no",
        "kept until a program of yours retries the job",
    ),
    "chancy": (
        "each process", "no", "yes, by queue, in windows of fixed times", "priority, id", "yes",
        "free at once; the job returns after 90 to 150 s",
    ),
    "Oban for Python": (
        "each process; all with Pro", "with Pro", "with Pro", "priority, due time, id", "yes",
        "free at once; each attempt older than five minutes starts again",
    ),
}  # fmt: skip


@dataclass
class Found:
    """The figures of a task by way and round, and the reasons of those that failed."""

    task: Task
    lines: Sequence[Mapping[str, Any]]
    failed: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.failed = {
            line["name"]: line["figures"]["error"] for line in self._of_task() if "error" in line["figures"]
        }

    def values(self, way: Limited, figure: str) -> dict[int, float]:
        """Return a figure by round."""
        return {
            line["round"]: line["figures"][figure]
            for line in self._of_task()
            if line["name"] == way.name and figure in line["figures"]
        }

    def _of_task(self) -> Iterator[Mapping[str, Any]]:
        return (line for line in self.lines if line["title"] == self.task.title)


def at_worst(task: Task, most: Collection[float]) -> str:
    """Return the most jobs at once, and by how many that is over the limit."""
    worst = int(max(most))
    return str(worst) if worst <= task.allowed else f"**{worst}**, {worst - task.allowed} over"


def figures_table(found: Found) -> str:
    """Return the table of a task: our own limit as it is, the others' rates and costs as ratios to it."""
    task, first = found.task, found.task.ways[0]
    heads = [
        "system", "counts in", "slots busy", "jobs/s", "CPU of workers and server, a job", task.worst,
        "the same, with a fifth process", "processes with jobs",
    ]  # fmt: skip
    rows = [
        [
            way.name,
            way.holds_in,
            spread([one / task.slots for one in found.values(way, "mean_at_once").values()], "{:.0%}"),
            _beside(found, way, first, "jobs_per_second", "{:.0f}"),
            _beside(found, way, first, "cpu_us_per_job", "{:,.0f} µs"),
            at_worst(task, found.values(way, task.most).values()),
            at_worst(task, found.values(way, f"{task.most}_joined").values()),
            spread(found.values(way, "processes").values(), "{:.0f}"),
        ]
        for way in task.ways
        if found.values(way, "mean_at_once")
    ]
    return table(heads, rows)


def _beside(found: Found, way: Limited, first: Limited, figure: str, written: str) -> str:
    own = found.values(way, figure)
    if way == first:
        return written.format(statistics.median(own.values()))
    return spread(ratios(own, found.values(first, figure)), "{:.2f}")


def contracts_table() -> str:
    """Return the contract of each system that is measured."""
    return table(CONTRACT_HEADS, [[name, *said] for name, said in CONTRACTS.items()], others="---")


def report(lines: Sequence[Mapping[str, Any]], known: Mapping[str, Any]) -> str:
    """Return the tables of all figures as Markdown."""
    num_rounds = len({line["round"] for line in lines})
    parts = [
        "\n".join(
            [
                *known["about"],
                f"- Jobs of {JOB_SECONDS * 1e3:.0f} ms in {NUM_PROCESSES} worker processes; jobs always wait.",
                f"- {num_rounds} rounds, systems in turns: medians, with least and greatest in brackets.",
                "- Millhand's limit has its own jobs a second and CPU time. The others have ratios to it of the same round.",
                "- Other programs ran on the machine: compare only the ratios.",
            ]
        )
    ]
    for found in (Found(task, lines) for task in TASKS):
        parts += [f"**{found.task.title}:**", figures_table(found)]
        parts += [f"{name} failed: {' '.join(reason.split())}" for name, reason in found.failed.items()]
    return "\n\n".join([*parts, "**What each promises:**", contracts_table()])


def measured(
    python: str, task: Task, way: Limited, places: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    """Measure once in a process of its own; a failure is a result too."""
    settings = {**way.settings, "keys": way.keys, "wait_ms": JOB_SECONDS * 1e3}
    num_jobs = int(task.slots / JOB_SECONDS * (2 * seconds + REST_SECONDS + START_SECONDS))
    asked = {
        "what": "limited",
        "jobs": num_jobs,
        "processes": NUM_PROCESSES,
        "rest": REST_SECONDS,
        "seconds": seconds,
    }
    return runs.measured(
        python, f"limited_{way.system}.py", asked, places, settings, limit_seconds=LIMIT_SECONDS
    )


def run(options: argparse.Namespace) -> None:
    """Measure all rounds, and keep each result as a line of the file."""
    ways = [
        (task, way)
        for task in TASKS
        for way in task.ways
        if not options.systems or way.system in options.systems
    ]
    found = prepared(way.variant for _, way in ways)
    for system, reason in found.missing.items():
        log(f"{system} is not measured: {reason}")
    with servers(with_redis=False) as places:
        known = {"about": about(places, versions(found))}
        options.results.write_text(json.dumps(known) + "\n")
        for number in range(1, options.rounds + 1):
            for task, way in ways[:: 1 if number % 2 else -1]:
                if way.system in found.pythons:
                    figures = measured(found.pythons[way.system], task, way, places, options.seconds)
                    line = {"name": way.name, "title": task.title, "round": number, "figures": figures}
                    with options.results.open("a") as results:
                        results.write(json.dumps(line) + "\n")
                    log(f"round {number}: {way.name}: {figures}")


def about(places: Mapping[str, str], installed: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a description of the machine and of the packages, as list items."""
    import databases  # noqa: PLC0415 - it reads the place from the environment

    os.environ["BENCH_DATABASE"] = places["BENCH_DATABASE"]
    packages = ", ".join(
        f"{system} {said[system]}"
        for system, said in installed.items()
        if system in said and system != "millhand"
    )
    machine = about_machine(str(databases.ask("SHOW server_version")))[:2]
    return [*machine, *([f"- Peers: {packages}. {SETTINGS}"] if packages else [])]


def parsed_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = runs.peers_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each of the two windows")
    options = parser.parse_args()
    options.results = options.keep / "limits-peers.jsonl"
    return options


def main() -> None:
    runs.run_and_report(parsed_options(), run, report, BEGIN_MARK, END_MARK)


if __name__ == "__main__":
    main()
