"""What the programs that measure Millhand beside peers have in common: a process for each measurement, options, results."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from document import put

PEERS = Path(__file__).resolve().parent / "peers"
sys.path.insert(0, str(PEERS))

from environments import KEPT  # noqa: E402 - of the directory above

Known = Mapping[str, Any]
"""The first line of a file of results: what is known of the machine and the packages."""
Lines = Sequence[Mapping[str, Any]]


def measured(
    python: str,
    program: str,
    asked: Mapping[str, Any],
    places: Mapping[str, str],
    settings: Mapping[str, Any],
    *,
    limit_seconds: float,
) -> dict[str, Any]:
    """Measure once by a program of `peers`, in a process of its own. A failure is a result too."""
    try:
        done = subprocess.run(
            [python, PEERS / program, "measure", json.dumps({**asked, "settings": settings})],
            capture_output=True,
            check=False,
            cwd=PEERS,
            env={**os.environ, **places, "BENCH_SETTINGS": json.dumps(settings)},
            text=True,
            timeout=limit_seconds,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no end within {limit_seconds:g} s"}
    if done.returncode:
        return {"error": done.stderr.strip()[-600:] or f"exit code {done.returncode}"}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def peers_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that the programs share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--systems", nargs="+", help="measure no others")
    parser.add_argument(
        "--report-only", action="store_true", help="make the tables of the last run's results"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the marks of FILE")
    parser.add_argument("--keep", type=Path, default=KEPT, metavar="DIRECTORY", help="where results are kept")
    return parser


def run_and_report(
    options: argparse.Namespace,
    run: Callable[[argparse.Namespace], None],
    report: Callable[[Lines, Known], str],
    begin_mark: str,
    end_mark: str,
) -> None:
    """Measure unless the options say otherwise, print the report of the results, and write it into a page."""
    options.keep.mkdir(exist_ok=True)
    if not options.report_only:
        run(options)
    known, *lines = [json.loads(line) for line in options.results.read_text().splitlines()]
    text = report(lines, known)
    print(text)
    if options.write is not None:
        put(options.write, text, begin_mark, end_mark)
