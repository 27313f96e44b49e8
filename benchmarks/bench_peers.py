"""
Millhand, River in Go and the Python peers, side by side on one server in one run.

    python benchmarks/bench_peers.py --write docs/performance.md      # or: ./just bench-peers --write docs/performance.md

In each round every system is measured once, in turn, in a database of its own that was made for it. `peers/plan.py` has
the settings, `peers/harness.py` what is measured. Results go to a file line by line, so that a run that was cut off can
go on (`--go-on`), and the tables and the plot are made of that file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from environments import KEPT, Found, prepared  # noqa: E402 - beside this file
from plan import IN_SCENES, NUM_INSERTS, PICKUP_SECONDS, RATES, SCENES, VARIANTS, WAITING, Variant  # noqa: E402
from report import write_plot, write_report  # noqa: E402

from millhand.embedded import embedded_postgres  # noqa: E402

LIMIT_SECONDS = 1_200.0
PARTS = ("insert", "drain", "pickup", "idle", "scenes", "waiting")
DATABASE = "bench"


def orders(options: argparse.Namespace) -> Iterator[tuple[Variant, str, dict[str, Any]]]:
    """Yield what one round measures: a variant, a title under which figures are kept, and an order."""
    for variant in VARIANTS:
        for what in variant.what:
            if what in options.only:
                yield from _orders_of(variant, what, options)
    for title, more in SCENES if "scenes" in options.only else ():
        for variant in VARIANTS:
            if (variant.system, variant.kind) in IN_SCENES:
                yield variant, title, {"jobs": variant.jobs, **more}
    for variant in WAITING if "waiting" in options.only else ():
        yield variant, "10 ms each", {"jobs": variant.jobs}


def _orders_of(
    variant: Variant, what: str, options: argparse.Namespace
) -> Iterator[tuple[Variant, str, dict[str, Any]]]:
    for rate in RATES if what == "pickup" else ():
        yield variant, f"pickup {rate:g}", {"jobs": int(rate * PICKUP_SECONDS), "rate": rate}
    if what == "insert":
        yield variant, what, {"jobs": NUM_INSERTS}
    if what == "idle":
        yield variant, what, {"jobs": 1, "seconds": options.idle_seconds}
    if what == "drain":
        yield variant, what, {"jobs": variant.jobs}


def shortened(order: dict[str, Any]) -> dict[str, Any]:
    """Make an order that is done at once, and whose figures mean nothing."""
    most = {"jobs": 300, "finished": 3_000, "waiting": 3_000, "seconds": 1.0}
    return {name: min(value, most.get(name, value)) for name, value in order.items()}


def what_of(title: str) -> str:
    """Return what the harness calls it."""
    return next((what for what in ("insert", "pickup", "idle") if title.startswith(what)), "drain")


def measure(
    found: Found, variant: Variant, title: str, order: dict[str, Any], places: dict[str, str]
) -> dict[str, Any]:
    """Measure once in a process of its own; a failure is a result as well."""
    asked = {"what": what_of(title), **order, "settings": variant.settings}
    environment = {**os.environ, **places, "BENCH_RIVER_GO": found.river_go or ""}
    environment["BENCH_SETTINGS"] = json.dumps(variant.settings)
    environment["PATH"] = os.pathsep.join(
        [str(Path(found.pythons[variant.system]).parent), os.environ["PATH"]]
    )
    program = HERE / "peers" / f"system_{variant.system}.py"
    try:
        done = subprocess.run(
            [found.pythons[variant.system], program, "measure", json.dumps(asked)],
            capture_output=True,
            check=False,
            cwd=HERE / "peers",
            env=environment,
            text=True,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no end within {LIMIT_SECONDS:g} s"}
    if done.returncode:
        return {"error": done.stderr.strip()[-600:]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@contextlib.contextmanager
def servers(with_redis: bool) -> Iterator[dict[str, str]]:
    """A PostgreSQL with its default settings, and a Redis that writes its log to the disk once a second."""
    with tempfile.TemporaryDirectory(prefix="millhand-peers-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)  # the user that a root's server runs as has to enter it
        server = stack.enter_context(embedded_postgres(directory / "postgres"))
        places = {"BENCH_DATABASE": urlsplit(server.url)._replace(path=f"/{DATABASE}").geturl()}
        if with_redis:
            places["BENCH_REDIS"] = stack.enter_context(_redis(directory))
        yield places


@contextlib.contextmanager
def _redis(directory: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [
        "--port",
        str(port),
        "--dir",
        str(directory),
        "--appendonly",
        "yes",
        "--appendfsync",
        "everysec",
        "--save",
        "",
    ]
    with subprocess.Popen(["redis-server", *words], stdout=subprocess.DEVNULL) as server:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def versions(found: Found) -> dict[str, dict[str, str]]:
    """Ask each environment for what is installed in it."""
    ask = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    return {
        system: json.loads(
            subprocess.run([python, "-c", ask], capture_output=True, check=True, text=True).stdout
        )
        for system, python in found.pythons.items()
    }


def run(options: argparse.Namespace) -> None:
    has_redis = shutil.which("redis-server") is not None
    wanted = [one for one in (*VARIANTS, *WAITING) if not options.systems or one.system in options.systems]
    found = prepared([one.system for one in wanted if has_redis or not one.is_on_redis])
    for system, reason in found.missing.items():
        tell(f"{system} is not measured: {reason}")
    if not has_redis:
        tell("what is on Redis is not measured: redis-server must be installed, got none")
    done = {(line["name"], line["title"], line["round"]) for line in read(options.results)}
    with servers(has_redis) as places, options.results.open("a") as results:
        for number in range(options.rounds + 1):  # the first does not count
            for variant, title, whole in orders(options):
                if variant.system not in found.pythons or (variant.name, title, number) in done:
                    continue
                order = shortened(whole) if options.quick else whole
                figures = measure(found, variant, title, order, places)
                line = {
                    "name": variant.name,
                    "title": title,
                    "round": number,
                    "order": order,
                    "figures": figures,
                    "load": os.getloadavg()[0],
                }
                results.write(json.dumps(line) + "\n")
                results.flush()
                shown = {name: value for name, value in figures.items() if name != "latencies_ms"}
                tell(f"round {number}: {variant.name}: {title}: {shown}")
    options.versions.write_text(json.dumps({"versions": versions(found), "missing": found.missing}))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--systems", nargs="+", help="measure no others")
    parser.add_argument("--idle-seconds", type=float, default=20.0)
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
        run(options)
    lines = [line for line in read(options.results) if line["round"] or options.rounds == 0]
    text = write_report(lines, json.loads(options.versions.read_text()), options.write)
    if options.write is not None:
        write_plot(lines, options.write.parent / "assets" / "peers.svg")
    print(text)


if __name__ == "__main__":
    main()
