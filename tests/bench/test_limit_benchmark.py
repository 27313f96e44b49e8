"""A small run of the benchmark of limits: that it runs, not how fast."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmark_page import section_of_a_small_run

SMALL = ("--rounds", "1", "--jobs", "500", "--busy-seconds", "4")


@pytest.mark.slow
async def test_limit_benchmark_writes_its_tables(tmp_path: Path) -> None:
    """A small run writes a line for each limit between the marks of a document, and no key has more jobs than slots."""
    text = await section_of_a_small_run("limits.py", tmp_path, *SMALL)

    assert re.findall(
        r"^\| ([^|]*, shared|no limit|200 keys[^|]*|one key, 1,000 at once) \| ", text, re.MULTILINE
    ) == ["no limit", "one key, 1,000 at once", "200 keys, 10 at once each", "one key, 1,000 at once, shared"]
    assert "| most jobs of a key at once | 4 |" in text
