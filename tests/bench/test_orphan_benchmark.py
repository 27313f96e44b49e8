"""A small run of the orphan cleanup's benchmark: that it runs, not how fast."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SMALL = ("--rounds", "1", "--objects", "3000", "--files", "2000", "--only", "replay", "directory")
TIMEOUT_SECONDS = 120.0


@pytest.mark.slow
async def test_orphan_benchmark_writes_a_table_for_each_store(tmp_path: Path) -> None:
    """A small run writes a table for each store between the marks of a document, with every contender in it."""
    document = tmp_path / "figures.md"
    document.write_text(
        "before\n<!-- orphan figures: written by benchmarks/orphans.py -->\n<!-- end of orphan figures -->\nafter\n"
    )
    program = str(PROJECT / "benchmarks" / "orphans.py")

    process = await asyncio.create_subprocess_exec(
        sys.executable, program, *SMALL, "--write", str(document), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        _, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    text = document.read_text()
    assert re.findall(r"^\| ([A-Z`][^|]*) \| 1\.00 ", text, re.MULTILINE) == [
        "Millhand, listing alone",
        "`os.walk` and `stat`, in no order",
    ]
    assert text.count("| Millhand, whole run, ") == 3
    assert (text.startswith("before"), text.endswith("after\n")) == (True, True)
