"""A small run of the benchmark of limits: that it runs, not how fast."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SMALL = ("--rounds", "1", "--jobs", "500", "--busy-seconds", "4")
TIMEOUT_SECONDS = 240.0


@pytest.mark.slow
async def test_limit_benchmark_writes_its_tables(tmp_path: Path) -> None:
    """A small run writes a line for each limit between the marks of a document, and no key has more jobs than slots."""
    document = tmp_path / "figures.md"
    document.write_text(
        "before\n<!-- limit figures: written by benchmarks/limits.py -->\n<!-- end of limit figures -->\nafter\n"
    )
    program = str(PROJECT / "benchmarks" / "limits.py")

    process = await asyncio.create_subprocess_exec(
        sys.executable, program, *SMALL, "--write", str(document), stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(TIMEOUT_SECONDS):
        _, errors = await process.communicate()

    assert process.returncode == 0, errors.decode()
    text = document.read_text()
    assert re.findall(
        r"^\| ([^|]*, shared|no limit|200 keys[^|]*|one key, 1,000 at once) \| ", text, re.MULTILINE
    ) == ["no limit", "one key, 1,000 at once", "200 keys, 10 at once each", "one key, 1,000 at once, shared"]
    assert "| most jobs of a key at once | 4 |" in text
    assert (text.startswith("before"), text.endswith("after\n")) == (True, True)
