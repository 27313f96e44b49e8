"""Read the project's source files once per test process: their text, and their syntax tree where a rule needs it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parents[2]
TEXTS = ("*.md", "*.toml", "*.sql", "justfile")


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """Yield each Python file below the folders: its path within the project, and its text."""
    for folder in folders:
        for path in _python_files(folder):
            yield str(path.relative_to(PROJECT)), read(path)


def texts() -> Iterator[tuple[str, str]]:
    """Yield each page, settings file and SQL file: its path within the project, and its text."""
    for pattern in TEXTS:
        for place in (
            PROJECT.glob(pattern),
            (PROJECT / "docs").rglob(pattern),
            (PROJECT / "src").rglob(pattern),
        ):
            for path in sorted(place):
                yield str(path.relative_to(PROJECT)), read(path)


def trees(*folders: str, containing: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the syntax tree of each Python file whose text contains a string; parsing every file takes seconds."""
    for name, text in sources(*folders):
        if containing in text:
            yield name, _parsed(text)


def calls(*folders: str, containing: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield each call in the files whose text contains a string."""
    for name, tree in trees(*folders, containing=containing):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield name, node


@cache
def read(path: Path) -> str:
    """Return a file's text."""
    return path.read_text()


@cache
def _python_files(folder: str) -> list[Path]:
    return sorted((PROJECT / folder).rglob("*.py"))


@cache
def _parsed(text: str) -> ast.Module:
    return ast.parse(text)
