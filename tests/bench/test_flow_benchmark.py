"""A small run of the benchmark of flows: that it runs, not how fast."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 240.0


@pytest.mark.slow
async def test_flow_benchmark_writes_its_tables(tmp_path: Path) -> None:
    """A small run writes the cost of each shape and the times between the marks of a document."""
    document = tmp_path / "figures.md"
    document.write_text(
        "before\n<!-- flow figures: written by benchmarks/flows.py -->\n<!-- end of flow figures -->\nafter\n"
    )
    program = str(PROJECT / "benchmarks" / "flows.py")

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        program,
        *("--rounds", "1", "--jobs", "1000", "--write", str(document)),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        _, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    text = document.read_text()
    assert re.search(r"^\| no flow( \| [0-9,]+( µs| bytes)?){5} \|$", text, re.MULTILINE)
    ratio = r" \| [0-9.]+ \([0-9.]+ to [0-9.]+\)"
    assert (
        len(re.findall(rf"^\| (?:a batch|chains|layers)[^|]*(?:{ratio}){{5}} \|$", text, re.MULTILINE)) == 3
    )
    assert re.search(
        r"^\| end of a task to the start of the one after it, p50 \| [0-9.]+ ms \|$", text, re.MULTILINE
    )
    assert (text.startswith("before"), text.endswith("after\n")) == (True, True)
