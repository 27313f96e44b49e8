"""
Measure Millhand, River in Go and Rust, and Python job systems on one server in one run.

    python benchmarks/bench_peers.py --write benchmarks/results.md

In each round every system is measured once, in turn, in a new database. Only idle systems run side by side, because
their cost is counted by process and by database. `peers/plan.py` has the settings, `peers/measures.py` the
measurements. Before the first round each system works a few jobs that do not count.
Results are written to a file line by line, so that `--go-on` can continue an interrupted run; the tables and the plot
come from that file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import databases  # noqa: E402 - beside this file
from charts import write_charts  # noqa: E402
from environments import KEPT, Found, prepared, versions  # noqa: E402
from peer_runs import measured  # noqa: E402
from plan import (  # noqa: E402
    IDLE_REST_SECONDS,
    IN_OPEN,
    IN_SCENES,
    LONG,
    LONG_TITLE,
    MORE_RATES,
    NUM_INSERTS,
    OPEN_BURST,
    OPEN_BURST_REST_SECONDS,
    OPEN_TITLE,
    PICKUP_SECONDS,
    RATES,
    SCENES,
    VARIANTS,
    WAITING,
    WAITING_TITLE,
    WITHOUT,
    Variant,
)
from plot import write_plot  # noqa: E402
from report import write_report  # noqa: E402

from millhand.embedded import embedded_postgres  # noqa: E402

LIMIT_SECONDS = 1_200.0
# The parts of the warm-up: a worker of each system, and the databases with a million rows.
WARM_UP_PARTS = {"drain", "scenes"}
PARTS = ("insert", "drain", "pickup", "imports", "idle", "scenes", "waiting", "long", "open")
DATABASE = "bench"
MOST_QUICK = {"jobs": 300, "rest": 0.5, "seconds": 0.5}
MOST_ROWS_QUICK = {"finished": 3_000, "waiting": 3_000}


@dataclass(frozen=True)
class Task:
    """One measurement: its system, the title of its figures, and the order for the harness."""

    variant: Variant
    title: str
    order: dict[str, Any]


def tasks(options: argparse.Namespace, number: int) -> Iterator[list[Task]]:
    """Yield the measurements of a round; those of one list run side by side."""
    only = set(options.only) & (WARM_UP_PARTS if number == 0 and options.rounds else set(PARTS))
    for variant in VARIANTS:
        for what in variant.what:
            if what.split()[0] in only and what != "idle":
                yield [Task(variant, what, _order(variant, what))]
    if "idle" in only:
        order = {"rest": IDLE_REST_SECONDS, "seconds": options.idle_seconds}
        yield [Task(variant, "idle", order) for variant in VARIANTS if "idle" in variant.what]
    for title, more in SCENES if "scenes" in only else ():
        for variant in VARIANTS:
            can_be = more.keys().isdisjoint(WITHOUT.get(variant.system, ()))
            if (variant.system, variant.kind) in IN_SCENES and can_be:
                # As many jobs for each process, because the CPU time of those that still start would count.
                yield [Task(variant, title, {"jobs": variant.jobs * more.get("processes", 1), **more})]
    for variant in WAITING if "waiting" in only else ():
        yield [Task(variant, WAITING_TITLE, {"jobs": variant.jobs})]
    if "long" in only and number == min(1, options.rounds):
        yield [Task(LONG, LONG_TITLE, {"jobs": LONG.jobs})]
    if "open" in only and number == min(1, options.rounds):
        order = {"jobs": OPEN_BURST, "rest": OPEN_BURST_REST_SECONDS, "seconds": options.open_minutes * 60.0}
        chosen = [variant for variant in VARIANTS if (variant.system, variant.kind) in IN_OPEN]
        yield [Task(variant, OPEN_TITLE, order) for variant in chosen]


def is_wanted(options: argparse.Namespace, variant: Variant) -> bool:
    """Return whether the options leave a variant."""
    return (not options.systems or variant.system in options.systems) and (
        not options.kinds or variant.kind in options.kinds
    )


def _order(variant: Variant, what: str) -> dict[str, Any]:
    if what.startswith("pickup"):
        return {"rates": RATES if what == "pickup" else MORE_RATES, "seconds": PICKUP_SECONDS}
    return {"jobs": {"insert": NUM_INSERTS, "drain": variant.jobs}.get(what, 0)}


def shortened(order: dict[str, Any], *, with_rows: bool) -> dict[str, Any]:
    """Return a small order for a trial run, whose figures mean nothing."""
    most = MOST_QUICK | (MOST_ROWS_QUICK if with_rows else {})
    return {name: min(value, most.get(name, value)) for name, value in order.items()}


def what_of(title: str) -> str:
    """Return the harness's name of a measurement."""
    if title == OPEN_TITLE:
        return "open"
    return next((what for what in ("insert", "pickup", "imports", "idle") if title.startswith(what)), "drain")


class Bench:
    """A run of measurements on this machine, and the file of its results."""

    def __init__(self, options: argparse.Namespace, found: Found, places: dict[str, str]) -> None:
        self._done = {(line["name"], line["title"], line["round"]) for line in read(options.results)}
        self._found = found
        self._options = options
        self._places = places

    def rounds(self) -> None:
        """Measure round by round after a warm-up; start only rounds that can end in time."""
        ends_at = time.monotonic() + self._options.minutes * 60.0
        longest = 0.0
        for number in range(self._options.rounds + 1):
            began = time.monotonic()
            if number and began + longest > ends_at:
                log(f"round {number} cannot end within {self._options.minutes:g} minutes and is skipped")
                return
            self.round(number)
            longest = max(longest, time.monotonic() - began if number else 0.0)

    def round(self, number: int) -> None:
        """Measure everything that this round still lacks."""
        began = time.monotonic()
        seconds: dict[str, float] = {}
        for together in tasks(self._options, number):
            part_began, part = time.monotonic(), together[0].title
            with databases.without_autovacuum() if part == "idle" else contextlib.nullcontext():
                self._measure_all(number, [task for task in together if self._is_due(number, task)])
            seconds[part] = seconds.get(part, 0.0) + time.monotonic() - part_began
        parts = ", ".join(f"{part} {spent:.0f}" for part, spent in seconds.items())
        log(f"round {number} took {time.monotonic() - began:.0f} s: {parts}")

    def _is_due(self, number: int, task: Task) -> bool:
        has_it = task.variant.place in self._found.pythons
        is_done = (task.variant.name, task.title, number) in self._done
        return has_it and not is_done and is_wanted(self._options, task.variant)

    def _measure_all(self, number: int, due: list[Task]) -> None:
        with ThreadPoolExecutor(max_workers=max(1, len(due))) as pool:
            waiting = {
                pool.submit(
                    self._measure, number, task, _apart(self._places, index if len(due) > 1 else 0)
                ): task
                for index, task in enumerate(due)
            }
            for future in as_completed(waiting):
                self._keep(number, waiting[future], *future.result())

    def _measure(
        self, number: int, task: Task, places: dict[str, str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Measure once in a process of its own; a failure is a result too."""
        is_quick = self._options.quick or number == 0
        order = shortened(task.order, with_rows=self._options.quick) if is_quick else task.order
        variant = task.variant
        python = self._found.pythons[variant.place]
        environment = {**places, "BENCH_PROGRAM": self._found.programs.get(variant.system, "")}
        environment["PATH"] = os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])
        asked = {"what": what_of(task.title), **order}
        # graphile-worker logs each success otherwise, and no other system here does.
        environment["NO_LOG_SUCCESS"] = "1"
        settings = variant.settings
        figures = measured(
            python, f"system_{variant.system}.py", asked, environment, settings, limit_seconds=LIMIT_SECONDS
        )
        return order, figures

    def _keep(self, number: int, task: Task, order: dict[str, Any], figures: dict[str, Any]) -> None:
        line = {
            "name": task.variant.name,
            "title": task.title,
            "round": number,
            "order": order,
            "figures": figures,
            "load": os.getloadavg()[0],
        }
        with self._options.results.open("a") as results:
            results.write(json.dumps(line) + "\n")
        shown = {
            name: f"{value['rate_reached']:.0f}/s" if isinstance(value, dict) else value
            for name, value in figures.items()
            if name != "bursts"
        }
        log(f"round {number}: {task.variant.name}: {task.title}: {shown}")


def _apart(places: dict[str, str], number: int) -> dict[str, str]:
    """Return separate databases for one of several systems that run side by side."""
    if not number:
        return places
    paths = {"BENCH_DATABASE": f"/{DATABASE}_{number}", "BENCH_REDIS": f"/{number}"}
    return {name: urlsplit(url)._replace(path=paths[name]).geturl() for name, url in places.items()}


@contextlib.contextmanager
def servers(with_redis: bool) -> Iterator[dict[str, str]]:
    """Start a PostgreSQL with default settings, and a Redis that syncs its log once a second."""
    with tempfile.TemporaryDirectory(prefix="millhand-peers-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)  # a server that root starts runs as another user
        server = stack.enter_context(embedded_postgres(directory / "postgres"))
        places = {"BENCH_DATABASE": urlsplit(server.url)._replace(path=f"/{DATABASE}").geturl()}
        if with_redis:
            places["BENCH_REDIS"] = stack.enter_context(_redis(directory))
        yield places


@contextlib.contextmanager
def _redis(directory: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = f"--port {port} --dir {directory} --appendonly yes --appendfsync everysec".split()
    with subprocess.Popen(["redis-server", *words, "--save", ""], stdout=subprocess.DEVNULL) as server:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def run(options: argparse.Namespace) -> None:
    has_redis = shutil.which("redis-server") is not None
    wanted = [one for one in (*VARIANTS, *WAITING) if is_wanted(options, one)]
    found = prepared(one for one in wanted if has_redis or not one.is_on_redis)
    found.missing.update(
        {one.place: "redis-server must be installed, got none" for one in wanted if one.is_on_redis}
        if not has_redis
        else {}
    )
    for system, reason in found.missing.items():
        log(f"{system} is not measured: {reason}")
    with servers(has_redis) as places:
        known = {"versions": versions(found), "missing": found.missing, "servers": _servers_versions(places)}
        options.versions.write_text(json.dumps(known))
        Bench(options, found, places).rounds()


def _servers_versions(places: dict[str, str]) -> dict[str, str]:
    os.environ["BENCH_DATABASE"] = places["BENCH_DATABASE"]
    said = {"PostgreSQL": str(databases.ask("SHOW server_version"))}
    if "BENCH_REDIS" in places:
        words = subprocess.run(["redis-server", "--version"], capture_output=True, check=True, text=True)
        said["Redis"] = words.stdout.partition("v=")[2].split()[0]
    return said


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def log(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no round that would not end within so many"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--systems", nargs="+", help="measure no others")
    parser.add_argument(
        "--kinds", nargs="+", help="measure no other settings, for example: tuned 'no rows kept'"
    )
    # A whole minute, so that each window has what runs once a minute.
    parser.add_argument("--idle-seconds", type=float, default=60.0)
    parser.add_argument("--open-minutes", type=float, default=10.0, help="how long the open transaction is")
    parser.add_argument(
        "--quick", action="store_true", help="a few jobs each: shows that all of it runs, and no figure"
    )
    parser.add_argument(
        "--go-on", action="store_true", help="with the results of the run before, which was cut off"
    )
    parser.add_argument(
        "--report-only", action="store_true", help="make tables and plot of the last run's results"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the tables between the marks of FILE, and the plot beside it",
    )
    parser.add_argument("--keep", type=Path, default=KEPT, metavar="DIRECTORY", help="where results are kept")
    options = parser.parse_args()
    options.results, options.versions = options.keep / "peers.jsonl", options.keep / "peers-versions.json"
    return options


def main() -> None:
    options = parsed_options()
    options.keep.mkdir(exist_ok=True)
    if not options.report_only:
        if not options.go_on:
            options.results.unlink(missing_ok=True)
        try:
            run(options)
        except KeyboardInterrupt:
            sys.exit("interrupted; --go-on continues, --report-only makes tables of what there is")
    lines = [line for line in read(options.results) if line["round"] or options.rounds == 0]
    text = write_report(lines, json.loads(options.versions.read_text()), options.write)
    if options.write is not None:
        assets = options.write.parents[1] / "docs" / "assets"
        write_plot(lines, assets / "peers.svg")
        write_charts(lines, assets)
    print(text)


if __name__ == "__main__":
    main()
