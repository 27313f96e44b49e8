"""
Type checkers read the cases beside this file; no test runs them.

`assert_type` states an expected type. `type: ignore[…]` marks a line that must be an error of this kind to mypy.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mypy_runner import mypy
from page_runner import blocks
from required import missing

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("cases*.py"))
ROOT = HERE.parents[1]
# Their programs need a framework, which has no types.
UNTYPED = {"django.md", "fastapi.md", "flask.md"}
HOW_TO = sorted(path for path in (ROOT / "docs/how_to").glob("*.md") if path.name not in UNTYPED)
PAGES = [page for page in (ROOT / "docs/reference/args.md", *HOW_TO) if "```python\n" in page.read_text()]
MARK = "# type: ignore["
HAS_ASYNCPG_TYPES = importlib.util.find_spec("asyncpg-stubs") is not None

Place = tuple[str, int]


def marked_lines() -> list[Place]:
    """Return the lines that must be errors."""
    return [
        (case.name, number)
        for case in CASES
        for number, line in enumerate(case.read_text().splitlines(), 1)
        if MARK in line
    ]


def written_as_modules(directory: Path) -> list[str]:
    """Write the code of each page as the body of a coroutine function, which may contain `await`; return the files."""
    for page in PAGES:
        texts = [one.text for one in blocks(page) if one.language == "python" and one.title is None]
        body = textwrap.indent("".join(texts), "    ")
        directory.joinpath(f"page_{page.stem}.py").write_text(f"async def page() -> None:\n{body}")
    return [str(path) for path in sorted(directory.iterdir())]


@pytest.mark.slow
def test_mypy_sees_args_and_jobs() -> None:
    """Mypy accepts the cases, and reports exactly the errors that they mark; those of `tx=` need asyncpg's types."""
    cases = [case for case in CASES if HAS_ASYNCPG_TYPES or case.name != "cases_tx.py"]
    # With --strict a `type: ignore` that is not needed is an error itself.
    report, errors, status = mypy(
        "--strict", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary", *map(str, cases)
    )

    assert (report, errors, status) == ("", "", 0)


@pytest.mark.slow
def test_mypy_accepts_the_pages(tmp_path: Path) -> None:
    """Code copied from the documentation passes `mypy --strict`."""
    if not HAS_ASYNCPG_TYPES:
        pytest.skip("asyncpg, which the pages use, has its types from elsewhere")

    files = written_as_modules(tmp_path)
    report, errors, status = mypy(
        "--strict", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary", *files
    )

    assert (report, errors, status) == ("", "", 0)


@pytest.mark.slow
def test_pyright_sees_the_same() -> None:
    """Pyright reports an error on each marked line and on no other."""
    if importlib.util.find_spec("pyright") is None:
        missing("pyright", "pyright is a tool of development, and is not installed here")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # it asks for no newer release then

    done = subprocess.run(
        [*command, "--project", str(HERE)], capture_output=True, text=True, env=environment, check=False
    )
    found = json.loads(done.stdout)["generalDiagnostics"]

    places = {(Path(one["file"]).name, one["range"]["start"]["line"] + 1): one["message"] for one in found}
    assert {place: error for place, error in places.items() if place not in marked_lines()} == {}
    assert [place for place in marked_lines() if place not in places] == []
