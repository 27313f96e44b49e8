"""What `import millhand` gives, and what it does not wait for."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import millhand

PROJECT = Path(__file__).parents[2]
FRONT_DOOR = PROJECT / "src" / "millhand" / "__init__.py"


def imported_for_checkers() -> dict[str, str]:
    """Return the names that a type checker sees, with their modules."""
    [block] = [node for node in ast.parse(FRONT_DOOR.read_text()).body if isinstance(node, ast.If)]
    return {
        alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_each_public_name_is_what_a_type_checker_sees() -> None:
    """Every name of `__all__` can be fetched, and from the module that it is imported from for type checkers."""
    seen = imported_for_checkers()

    assert {*seen, "__version__"} == set(millhand.__all__)
    assert seen == {name: millhand._PLACES[name] for name in seen}
    for name in millhand.__all__:
        assert getattr(millhand, name) is getattr(millhand, name)
        assert name in dir(millhand)


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
