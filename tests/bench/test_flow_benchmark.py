"""A small run of the benchmark of flows: that it runs, not how fast."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmark_page import section_of_a_small_run


@pytest.mark.slow
async def test_flow_benchmark_writes_its_tables(tmp_path: Path) -> None:
    """A small run writes the cost of each shape and the times between the marks of a document."""
    text = await section_of_a_small_run("flows.py", tmp_path, "--rounds", "1", "--jobs", "1000")

    assert re.search(r"^\| no flow( \| [0-9,]+( µs| bytes)?){5} \|$", text, re.MULTILINE)
    # A drain of so few jobs may use less of the server's time than a tick of its clock.
    ratio = r" \| (?:[0-9.]+ \([0-9.]+ to [0-9.]+\)|not measured)"
    assert (
        len(re.findall(rf"^\| (?:a batch|chains|layers)[^|]*(?:{ratio}){{5}} \|$", text, re.MULTILINE)) == 3
    )
    assert re.search(
        r"^\| end of a task to the start of the one after it, p50 \| [0-9.]+ ms \|$", text, re.MULTILINE
    )
