"""The tables that a benchmark beside peers writes into a page of the documentation."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Protocol

PROJECT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 240.0


class Program(Protocol):
    """The module of a benchmark: it writes its tables between two marks."""

    BEGIN_MARK: str
    END_MARK: str
    __file__: str


def section(page: Path, program: Program) -> str:
    """Return what a program has written into a page."""
    _, _, rest = page.read_text().partition(program.BEGIN_MARK)
    found, _, _ = rest.partition(program.END_MARK)
    return found


def tables(text: str) -> list[str]:
    """Return the tables of a text."""
    return [part for part in text.strip().split("\n\n") if part.startswith("| ")]


def rows(text: str) -> dict[str, list[str]]:
    """Return the cells of each line of the tables by the first."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


async def section_of_a_small_run(program: Program, directory: Path, *options: str) -> str:
    """Run a program on real servers, and return what it writes into a page. Raises: AssertionError if it fails."""
    page = directory / "page.md"
    page.write_text(f"before\n{program.BEGIN_MARK}\n{program.END_MARK}\nafter\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, program.__file__, *options, "--keep", str(directory), "--write", str(page),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(TIMEOUT_SECONDS):
        _, errors = await process.communicate()
    text = page.read_text()
    assert process.returncode == 0, errors.decode()
    assert (text.startswith("before"), text.endswith("after\n")) == (True, True)
    return section(page, program)
