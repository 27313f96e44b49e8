"""A small run of the benchmark of kept schedules: that it runs and audits, not how late they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmark_page import section_of_a_small_run

SMALL = ("--schedules", "60", "--rate", "20", "--seconds", "3")


@pytest.mark.slow
async def test_schedule_benchmark_writes_its_table(tmp_path: Path) -> None:
    """A small run writes times, CPU shares and sizes of both kinds of load between the marks of a document."""
    text = await section_of_a_small_run("schedules.py", tmp_path, *SMALL)

    rows = re.findall(
        r"^\| (.*?) \|(?: [0-9,]+ ms \|){6} [0-9.]+ of a core \| [0-9.]+ of a core \| .* MB, .* dead rows \|$",
        text,
        re.MULTILINE,
    )
    assert rows == ["each at its own instant", "all at the full second"]
