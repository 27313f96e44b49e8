"""What `import millhand` gives, and what it does not wait for."""

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
    """Every name of `__all__` can be fetched, and from the module that it is imported from for type checkers."""
    package = importlib.import_module(name)
    seen = imported_for_checkers(package)

    assert {*seen, "__version__"} == {*package.__all__, "__version__"}
    for public, module in seen.items():
        assert getattr(package, public) is getattr(importlib.import_module(module), public)
        assert public in dir(package)


@pytest.mark.parametrize("name", DOORS)
def test_no_module_has_the_name_of_what_its_package_gives(name: str) -> None:
    """A module, once imported, is an attribute of its package, and would stand in the way of a name like its own."""
    package = importlib.import_module(name)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}

    assert modules.isdisjoint(package.__all__)


def test_name_that_is_none_is_an_attribute_error() -> None:
    """A name that is not public is told as that of any module."""
    with pytest.raises(AttributeError, match="module 'millhand' has no attribute 'Clinet'"):
        _ = millhand.Clinet  # type: ignore[attr-defined]


def test_import_waits_for_nothing_that_it_does_not_need() -> None:
    """`import millhand` loads no driver and no event loop, and neither does `millhand --help`."""
    code = (
        "import sys, millhand, millhand.cli.main; "
        "print(*sorted({'asyncio', 'asyncpg', 'psycopg', 'msgspec', 'structlog', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert done.stdout == "\n"


def test_version_is_that_of_the_project() -> None:
    """What a client reports of itself is what was installed."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]

    assert millhand.__version__ == project["version"]
