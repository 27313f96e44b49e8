"""
Find which test verifies which scenario of River's conformance suite and which check, from the docstrings of all tests.

    python tests/interop/scenarios.py

prints the coverage.

A docstring begins with the checks (by number) and scenarios (by name) that its test verifies, each optional:

    \"\"\"24, 38: resumable_retry, resumable_cross_engine_cursor; what the claim is.\"\"\"
    \"\"\"snooze_once_metadata_transition; what the claim is.\"\"\"
    \"\"\"25: what the claim is.\"\"\"

If this does not fit into one line, it is a line of its own that ends with a full stop.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

PROJECT = Path(__file__).parents[2]
FEATURES = Path(__file__).with_name("river_features.md")

NUMBERS = re.compile(r"(\d+[ab]?(?:, \d+[ab]?)*): ")
NAME = r"(?:[a-z]+: )?([a-z0-9]+(?:_[a-z0-9]+)+)"
NAMES = re.compile(rf"{NAME}(?:, {NAME})*(?:;\s|\.(?:\n|$))")
# Values without a database are played by Millhand's adapter against River's recorded ones.
PLAYED = re.compile(r"test_interop_play_\w+\.py|test_conformance_controls\.py")
# `file::name` in a page.
REFERENCE = re.compile(r"`(test_\w+\.py::test_\w+)`")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What one test verifies. `test` is `file::name`; file names are unique."""

    checks: tuple[str, ...]
    docstring: str
    names: tuple[str, ...]
    test: str


@dataclass(frozen=True, kw_only=True)
class Known:
    """Names by tier with their meanings, reasons for names without a test, and checks."""

    checks: Mapping[str, str]
    reasons: Mapping[str, str]
    tiers: Mapping[str, Mapping[str, str]]

    @property
    def names(self) -> set[str]:
        return {name for tier in self.tiers.values() for name in tier}


def read_known() -> Known:
    """Return the content of scenarios.toml."""
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    return Known(checks=tables.pop("checks"), reasons=tables.pop("without_a_test"), tiers=tables)


def read_unplayed() -> Mapping[str, str]:
    """Return the reason of each scenario that the adapters do not play, from unplayed.toml."""
    reasons: Mapping[str, str] = tomllib.loads(Path(__file__).with_name("unplayed.toml").read_text())
    return reasons


def names_played(shown: Iterable[Shown]) -> set[str]:
    """Return the scenarios that the adapters of River's conformance suite play, by the docstrings of their tests."""
    return {name for one in shown if PLAYED.match(one.test) for name in one.names}


def read_shown() -> list[Shown]:
    """Return what each test of the project verifies, tests that verify nothing listed included."""
    return [
        shown_by(f"{path.name}::{name}", docstring)
        for path in sorted((PROJECT / "tests").rglob("test_*.py"))
        for name, docstring in tests_in(path.read_text())
    ]


def tests_in(source: str) -> Iterator[tuple[str, str]]:
    """Yield name and docstring of each test of a file."""
    module = ast.parse(source)
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    for node in chain(module.body, *(one.body for one in classes)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name, ast.get_docstring(node) or ""


def shown_by(test: str, docstring: str) -> Shown:
    """Return what a test shows, by its docstring."""
    numbers = NUMBERS.match(docstring)
    checks = tuple(numbers[1].split(", ")) if numbers else ()
    names = NAMES.match(docstring, numbers.end() if numbers else 0)
    found = re.findall(NAME, names[0]) if names else []
    return Shown(checks=checks, docstring=docstring, names=tuple(found), test=test)


def faults(known: Known, shown: Iterable[Shown]) -> list[str]:
    """Return unknown names, names at the wrong place, and names without test or reason."""
    shown = list(shown)
    return [
        fault for one in shown for fault in (*_faults_of_names(known, one), *_faults_of_checks(known, one))
    ] + [*_faults_of_list(known, by_name(shown), by_check(shown))]


def _faults_of_names(known: Known, one: Shown) -> Iterator[str]:
    for name in one.names:
        if name not in known.names:
            yield f"scenario {name!r} must be one of scenarios.toml: {one.test}"
    for name in re.findall(r"\w+", one.docstring):
        if name in known.names and name not in one.names:
            yield f"scenario {name!r} must stand at the beginning of the docstring, before a semicolon: {one.test}"


def _faults_of_checks(known: Known, one: Shown) -> Iterator[str]:
    for number in one.checks:
        if number not in known.checks:
            yield f"check {number} must be one of scenarios.toml: {one.test}"


def _faults_of_list(
    known: Known, names: Mapping[str, list[str]], checks: Mapping[str, list[str]]
) -> Iterator[str]:
    for name in sorted(known.names):
        if (name in names) == (name in known.reasons):
            got = "both" if name in names else "neither"
            yield f"scenario {name!r} must have a test or a reason to have none, got {got}"
    for name in sorted(known.reasons.keys() - known.names):
        yield f"scenario {name!r} has a reason to have no test, and must be one of a tier"
    for number in known.checks:
        if number not in checks:
            yield f"check {number} must have a test"


def by_name(shown: Iterable[Shown]) -> dict[str, list[str]]:
    """Return the tests of each scenario."""
    return _inverted((name, one.test) for one in shown for name in one.names)


def by_check(shown: Iterable[Shown]) -> dict[str, list[str]]:
    """Return the tests of each check."""
    return _inverted((number, one.test) for one in shown for number in one.checks)


def references(page: str) -> list[str]:
    """Return the tests that a page names, each as `file::name`."""
    return REFERENCE.findall(page)


def _inverted(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    inverted: dict[str, list[str]] = {}
    for key, test in pairs:
        inverted.setdefault(key, []).append(test)
    return inverted


def main() -> int:
    """Print the coverage, and return 1 if there are faults."""
    known, shown = read_known(), read_shown()
    names, checks = by_name(shown), by_check(shown)
    for tier, scenarios in known.tiers.items():
        for name in scenarios:
            _print_row(f"{tier} {name}", names.get(name, [known.reasons.get(name, "-")]))
    for number in known.checks:
        _print_row(f"check {number}", checks.get(number, ["-"]))
    found = faults(known, shown)
    print(*found, sep="\n", file=sys.stderr)
    return 1 if found else 0


def _print_row(title: str, tests: list[str]) -> None:
    for index, test in enumerate(tests):
        print(f"{title if index == 0 else '':64}{test}")


if __name__ == "__main__":
    sys.exit(main())
