"""The lists of River's scenarios, of the checks beside River and of River's features name a test for each entry."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from river_suite import upstream

SCRIPT = Path(__file__).parent / "interop" / "scenarios.py"


@pytest.fixture(scope="module")
def scenarios() -> ModuleType:
    """The script, loaded by its path, because tests/interop needs Go."""
    spec = importlib.util.spec_from_file_location("scenarios", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shown(scenarios: ModuleType) -> list[Any]:
    """What each test of the project verifies."""
    return list(scenarios.read_shown())


@pytest.mark.parametrize(
    ("docstring", "checks", "names"),
    [
        ("24, 26a: resumable_retry, runtime: a_b; the claim.", ("24", "26a"), ("resumable_retry", "a_b")),
        ("25: The claim.", ("25",), ()),
        ("a_b; the claim.", (), ("a_b",)),
        ("26: runtime: a_b.", ("26",), ("a_b",)),
        ("26: a_b, c_d.\n\nThe claim.", ("26",), ("a_b", "c_d")),
        ("The claim, which a_b; and so on.", (), ()),
        ("", (), ()),
    ],
)
def test_docstring_starts_with_the_checks_and_scenarios_of_its_test(
    scenarios: ModuleType, docstring: str, checks: tuple[str, ...], names: tuple[str, ...]
) -> None:
    """A docstring has numbers of checks, then names of scenarios, then the claim; only the claim is required."""
    shown = scenarios.shown_by("test_x.py::test_y", docstring)

    assert (shown.checks, shown.names) == (checks, names)


def test_faults_reports_unknown_misplaced_and_untested_names(scenarios: ModuleType) -> None:
    """The script reports unknown names, misplaced names, and names with no test, or with a test and a reason."""
    known = scenarios.Known(
        checks={"1": "", "2": ""},
        reasons={"b_b": "why", "x_x": "why"},
        tiers={"codec": {"a_a": "", "b_b": ""}},
    )
    shown = [
        scenarios.shown_by("test_x.py::test_1", "1, 3: b_b, c_c; a claim."),
        scenarios.shown_by("test_x.py::test_2", "A claim about a_a."),
    ]

    assert scenarios.faults(known, shown) == [
        "scenario 'c_c' must be one of scenarios.toml: test_x.py::test_1",
        "check 3 must be one of scenarios.toml: test_x.py::test_1",
        "scenario 'a_a' must stand at the beginning of the docstring, before a semicolon: test_x.py::test_2",
        "scenario 'a_a' must have a test or a reason to have none, got neither",
        "scenario 'b_b' must have a test or a reason to have none, got both",
        "scenario 'x_x' has a reason to have no test, and must be one of a tier",
        "check 2 must have a test",
    ]


@pytest.mark.slow
def test_every_scenario_and_every_check_has_a_test(scenarios: ModuleType, shown: list[Any]) -> None:
    """Each scenario has a test or a reason to have none, and each check has a test."""
    assert scenarios.faults(scenarios.read_known(), shown) == []


@pytest.mark.slow
def test_features_name_tests_that_exist(scenarios: ModuleType, shown: list[Any]) -> None:
    """Each `file::name` in tests/interop/river_features.md is a test of this project."""
    there = {one.test for one in shown}

    assert [test for test in scenarios.references(scenarios.FEATURES.read_text()) if test not in there] == []


def test_each_feature_has_a_test_or_a_reason(scenarios: ModuleType) -> None:
    """Each row of a feature names its test, or says why Millhand lacks the feature."""
    rows = [
        line.strip("|").split(" | ")
        for line in scenarios.FEATURES.read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| River")
    ]

    assert len(rows) > 80
    assert [row for row in rows if len(row) != 3 or not scenarios.references(row[2])] == []
    assert [row for row in rows if row[1].startswith("—") and len(row[1].split()) < 5] == []


@pytest.mark.slow
def test_adapters_play_each_core_scenario_or_have_a_reason(scenarios: ModuleType, shown: list[Any]) -> None:
    """Each scenario of River's core list has a test that plays it, or a reason in unplayed.toml, and never both."""
    core = {name for names in upstream("scenarios").values() for name in names}
    played, reasons = scenarios.names_played(shown), scenarios.read_unplayed()

    assert (len(core), len(reasons)) == (103, 17)  # docs/reference/river.md has these numbers
    assert played | reasons.keys() == core
    assert played & reasons.keys() == set()
