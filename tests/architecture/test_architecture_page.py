"""The architecture page shows the layers, imports and modules that the code has."""

from __future__ import annotations

from pathlib import Path

import pytest

import architecture_page
from architecture_page import JOB_STEPS, ORPHAN_STEPS, PACKAGE, PAGE
from diagrams import direct

RUN_ME = "run: python docs/.writers/architecture_page.py"


def test_layer_table_is_drawn_from_the_import_contract() -> None:
    """The page's table lists each package with its layer and the first sentence of its docstring."""
    assert PAGE.read_text() == architecture_page.page(), RUN_ME


@pytest.mark.parametrize(
    ("path", "svg"), [pytest.param(path, svg, id=path.stem) for path, svg in architecture_page.drawings()]
)
def test_diagram_is_drawn_from_the_code(path: Path, svg: str) -> None:
    """A diagram in docs/assets is what the script draws today."""
    assert path.read_text() == svg, RUN_ME


def test_each_step_names_a_module() -> None:
    """A module in a diagram exists."""
    modules = [step.module for step in (*JOB_STEPS, *ORPHAN_STEPS)]

    assert [module for module in modules if not (PACKAGE / module).is_file()] == []


def test_implied_imports_are_left_out() -> None:
    """The package graph has no arrow where a longer path of arrows leads to the same package."""
    assert direct({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == [("a", "b"), ("b", "c")]
