"""The tables that a benchmark writes into a page of the documentation, between its two marks."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 240.0


def section(page: Path, program: str) -> str:
    """Return what a program of `benchmarks` has written into a page."""
    begin_mark, end_mark = _marks(program)
    _, _, rest = page.read_text().partition(begin_mark)
    found, _, _ = rest.partition(end_mark)
    return found


def tables(text: str) -> list[str]:
    """Return the tables of a text."""
    return [part for part in text.strip().split("\n\n") if part.startswith("| ")]


def heads(table: str) -> list[str]:
    """Return the names of the columns of a table."""
    return table.splitlines()[0].strip("| ").split(" | ")


def rows(text: str) -> dict[str, list[str]]:
    """Return the cells of each line of the tables by the first."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


async def section_of_a_small_run(program: str, directory: Path, *options: str) -> str:
    """Run a program on real servers, and return what it writes into a page. Raises: AssertionError if it fails."""
    page = directory / "page.md"
    page.write_text("before\n{}\n{}\nafter\n".format(*_marks(program)))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROJECT / "benchmarks" / program), *options, "--write", str(page),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(TIMEOUT_SECONDS):
        _, errors = await process.communicate()
    text = page.read_text()
    assert process.returncode == 0, errors.decode()
    assert (text.startswith("before"), text.endswith("after\n")) == (True, True)
    return section(page, program)


def _marks(program: str) -> tuple[str, str]:
    text = (PROJECT / "benchmarks" / program).read_text()
    begin_mark, end_mark = re.findall(r'^(?:BEGIN|END)_MARK = "(.*)"$', text, re.MULTILINE)
    return begin_mark, end_mark
