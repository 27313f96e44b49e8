"""A small run of the benchmark of awaited results: that it runs, not how fast."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SMALL = ("--rounds", "1", "--jobs", "20", "--rate", "50", "--seconds", "1")
TIMEOUT_SECONDS = 240.0


@pytest.mark.slow
async def test_result_benchmark_writes_its_tables(tmp_path: Path) -> None:
    """A small run writes the times and the shares of a core between the marks of a document."""
    document = tmp_path / "figures.md"
    document.write_text(
        "before\n<!-- result figures: written by benchmarks/awaited_results.py -->\n"
        "<!-- end of result figures -->\nafter\n"
    )
    program = str(PROJECT / "benchmarks" / "awaited_results.py")

    process = await asyncio.create_subprocess_exec(
        sys.executable, program, *SMALL, "--write", str(document), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        _, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    text = document.read_text()
    assert (
        len(re.findall(r"^\| (?:insert|start) to .* \| [0-9.]+ ms \| [0-9.]+ ms \|$", text, re.MULTILINE))
        == 4
    )
    assert len(re.findall(r"^\| .* \| -?[0-9,]+ µs \(-?[0-9,]+ to -?[0-9,]+\) \|$", text, re.MULTILINE)) == 3
    assert (text.startswith("before"), text.endswith("after\n")) == (True, True)
