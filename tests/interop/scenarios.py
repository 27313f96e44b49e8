"""
Find which test verifies which scenario of River's conformance suite and which check, from the docstrings of all tests.

    python tests/interop/scenarios.py

prints the coverage and writes the tables of docs/reference/river_tests.md.

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
FEATURES = PROJECT / "docs" / "reference" / "river.md"
PAGE = PROJECT / "docs" / "reference" / "river_tests.md"
BEGIN = "<!-- Written by tests/interop/scenarios.py; a test compares. -->"
END = "<!-- End of the written tables. -->"

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


def page_with_tables(page: str, known: Known, shown: Iterable[Shown]) -> str:
    """Return a page with the tables between its markers."""
    head, found, rest = page.partition(BEGIN)
    _, also_found, foot = rest.partition(END)
    if not (found and also_found):
        raise ValueError(f"page must have a line {BEGIN!r} and behind it a line {END!r}, got neither or one")
    return f"{head}{BEGIN}\n\n{tables(known, list(shown))}\n{END}{foot}"


def tables(known: Known, shown: list[Shown]) -> str:
    """Return the tables as Markdown: one for each tier, and one for the checks."""
    names = by_name(shown)
    parts = [
        _table(
            f"**{tier}**",
            {f"`{name}`": meaning for name, meaning in scenarios.items()},
            {
                f"`{name}`": known.reasons[name] if name in known.reasons else _cell(names.get(name, ()))
                for name in scenarios
            },
        )
        for tier, scenarios in known.tiers.items()
    ]
    cells = {number: _cell(tests) for number, tests in by_check(shown).items()}
    return "\n".join([*parts, _table("**check**", known.checks, cells)])


def references(page: str) -> list[str]:
    """Return the tests that a page names, each as `file::name`."""
    return REFERENCE.findall(page)


def _table(title: str, meanings: Mapping[str, str], cells: Mapping[str, str]) -> str:
    rows = [f"| {key} | {meaning} | {cells.get(key, '')} |" for key, meaning in meanings.items()]
    return "\n".join([f"| {title} | what must hold | verified by |", "|---|---|---|", *rows, ""])


def _cell(tests: Iterable[str]) -> str:
    return "<br>".join(f"`{test}`" for test in tests)


def _inverted(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    inverted: dict[str, list[str]] = {}
    for key, test in pairs:
        inverted.setdefault(key, []).append(test)
    return inverted


def main() -> int:
    """Print the coverage, write the page, and return 1 if there are faults."""
    known, shown = read_known(), read_shown()
    names, checks = by_name(shown), by_check(shown)
    for tier, scenarios in known.tiers.items():
        for name in scenarios:
            _print_row(f"{tier} {name}", names.get(name, [known.reasons.get(name, "-")]))
    for number in known.checks:
        _print_row(f"check {number}", checks.get(number, ["-"]))
    PAGE.write_text(page_with_tables(PAGE.read_text(), known, shown))
    found = faults(known, shown)
    print(*found, sep="\n", file=sys.stderr)
    return 1 if found else 0


def _print_row(title: str, tests: list[str]) -> None:
    for index, test in enumerate(tests):
        print(f"{title if index == 0 else '':64}{test}")


if __name__ == "__main__":
    sys.exit(main())
