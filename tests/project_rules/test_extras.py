"""The extras of the package: what each installs, and the size that its page gives."""

from __future__ import annotations

import platform
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from source_files import PROJECT, read

MEGABYTE = 1_000_000
ROW = re.compile(r"^\| `(millhand|\[\w+\])` \| (\d+) MB \|", re.MULTILINE)


def test_all_extras_install_no_database() -> None:
    """`[all]` contains each extra except `[embedded]`: a production image gets no PostgreSQL server."""
    extras = tomllib.loads(read(PROJECT / "pyproject.toml"))["project"]["optional-dependencies"]
    (everything,) = extras.pop("all")

    assert Requirement(everything).extras == set(extras) - {"embedded"}


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the page gives sizes on Linux x86-64"
)
@pytest.mark.slow
def test_page_gives_the_size_of_each_extra() -> None:
    """The page of versions lists each extra, and its size is at most a fifth, or 1 MB, away from what is installed here."""
    extras = tomllib.loads(read(PROJECT / "pyproject.toml"))["project"]["optional-dependencies"]
    shown = {name: int(size) for name, size in ROW.findall(read(PROJECT / "docs/reference/versions.md"))}
    installed = {"millhand": _size("millhand")} | {
        f"[{extra}]": _size(f"millhand[{extra}]") - _size("millhand") for extra in extras
    }

    assert set(shown) == set(installed)
    assert {
        name: (shown[name], size)
        for name, size in installed.items()
        if abs(shown[name] - size) > max(0.2 * size, 1)
    } == {}


def _size(requirement: str) -> float:
    """Return the megabytes of a requirement's files and those of all that it requires, without bytecode."""
    names = set(_required(Requirement(requirement)))
    return sum(_bytes(name) for name in names) / MEGABYTE


def _required(requirement: Requirement) -> Iterator[str]:
    yield requirement.name
    for text in distribution(requirement.name).requires or []:
        inner = Requirement(text)
        if inner.marker is None or any(
            inner.marker.evaluate({"extra": extra}) for extra in (requirement.extras or {""})
        ):
            yield from _required(inner)


@cache
def _bytes(name: str) -> int:
    """Return the size of a package's files. The wheel of Millhand holds `src`, and here a link to it is installed."""
    if name == "millhand":
        return sum(
            len(read(path).encode())
            for path in (PROJECT / "src").rglob("*.*")
            if path.suffix in {".py", ".sql"}
        )
    files = (Path(str(file.locate())) for file in distribution(name).files or [] if file.suffix != ".pyc")
    return sum(file.stat().st_size for file in files if file.exists())
