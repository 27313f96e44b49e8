"""`import millhand`: its public names, and what it imports."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import millhand

PROJECT = Path(__file__).parents[2]
DOORS = ("millhand", "millhand.jobs", "millhand.orphans", "millhand.storage")


def imported_for_checkers(package: ModuleType) -> dict[str, str]:
    """Return the names that a type checker sees, with their modules."""
    source = Path(str(package.__file__)).read_text()
    [block] = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    return {
        alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("name", DOORS)
def test_each_public_name_is_what_a_type_checker_sees(name: str) -> None:
    """Every name of `__all__` can be imported, and is the object that type checkers see."""
    package = importlib.import_module(name)
    seen = imported_for_checkers(package)

    assert {*seen, "__version__"} == {*package.__all__, "__version__"}
    for public, module in seen.items():
        assert getattr(package, public) is getattr(importlib.import_module(module), public)
        assert public in dir(package)


@pytest.mark.parametrize("name", DOORS)
def test_no_module_has_the_name_of_an_export(name: str) -> None:
    """An imported module is an attribute of its package, and would replace an export of the same name."""
    package = importlib.import_module(name)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}

    assert modules.isdisjoint(package.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    """The error is that of any module."""
    with pytest.raises(AttributeError, match="module 'millhand' has no attribute 'Clinet'"):
        _ = millhand.Clinet  # type: ignore[attr-defined]


@pytest.mark.slow
def test_import_loads_no_driver_and_no_event_loop() -> None:
    """`import millhand` loads no driver and no event loop, and neither does `millhand --help`."""
    code = (
        "import sys, millhand, millhand.cli.main; "
        "print(*sorted({'asyncio', 'asyncpg', 'psycopg', 'msgspec', 'structlog', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert done.stdout == "\n"


def test_version_is_that_of_the_project() -> None:
    """The version of the package is that of pyproject.toml."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]

    assert millhand.__version__ == project["version"]
