"""The models of `models/`, and the mutants of their guards."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
MODELS = sorted(path.stem for path in (PROJECT / "models").glob("*.tla"))


@pytest.mark.parametrize("model", MODELS)
def test_each_guard_of_a_model_has_a_mutant(model: str) -> None:
    """Each guard of a model has a mutant, and the page on models lists it."""
    guards = set(re.findall(r'\bHas\("([^"]+)"\)', (PROJECT / f"models/{model}.tla").read_text()))
    runs = tomllib.loads((PROJECT / f"models/{model}.toml").read_text()).values()
    page = (PROJECT / "docs/explanation/models.md").read_text()

    assert guards
    assert {mutant for run in runs for mutant in run.get("mutants", {})} == guards
    assert [guard for guard in sorted(guards) if guard not in page] == []
