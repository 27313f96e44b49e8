"""A small run of the benchmark of kept schedules: that it runs and audits, not how late they are."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SMALL = ("--schedules", "60", "--rate", "20", "--seconds", "3")
TIMEOUT_SECONDS = 240.0


@pytest.mark.slow
async def test_schedule_benchmark_writes_its_table(tmp_path: Path) -> None:
    """A small run writes times, CPU shares and sizes of both kinds of load between the marks of a document."""
    document = tmp_path / "figures.md"
    document.write_text(
        "before\n<!-- schedule figures: written by benchmarks/schedules.py -->\n"
        "<!-- end of schedule figures -->\nafter\n"
    )
    program = str(PROJECT / "benchmarks" / "schedules.py")

    process = await asyncio.create_subprocess_exec(
        sys.executable, program, *SMALL, "--write", str(document), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        _, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    text = document.read_text()
    rows = re.findall(
        r"^\| (.*?) \|(?: [0-9,]+ ms \|){6} [0-9.]+ of a core \| [0-9.]+ of a core \| .* MB, .* dead rows \|$",
        text,
        re.MULTILINE,
    )
    assert rows == ["each at its own instant", "all at the full second"]
    assert (text.startswith("before"), text.endswith("after\n")) == (True, True)
