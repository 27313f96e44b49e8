"""A small run of the benchmark of awaited results: that it runs, not how fast."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmark_page import section_of_a_small_run

SMALL = ("--rounds", "1", "--jobs", "20", "--rate", "50", "--seconds", "1")


@pytest.mark.slow
async def test_result_benchmark_writes_its_tables(tmp_path: Path) -> None:
    """A small run writes the times and the shares of a core between the marks of a document."""
    text = await section_of_a_small_run("awaited_results.py", tmp_path, *SMALL)

    assert (
        len(re.findall(r"^\| (?:insert|start) to .* \| [0-9.]+ ms \| [0-9.]+ ms \|$", text, re.MULTILINE))
        == 4
    )
    assert len(re.findall(r"^\| .* \| -?[0-9,]+ µs \(-?[0-9,]+ to -?[0-9,]+\) \|$", text, re.MULTILINE)) == 3
