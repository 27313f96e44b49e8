"""A small run of the orphan cleanup's benchmark: that it runs, not how fast."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmark_page import section_of_a_small_run

SMALL = ("--rounds", "1", "--objects", "3000", "--files", "2000", "--only", "replay", "directory")


@pytest.mark.slow
async def test_orphan_benchmark_writes_a_table_for_each_store(tmp_path: Path) -> None:
    """A small run writes a table for each store between the marks of a document, with every contender in it."""
    text = await section_of_a_small_run("orphans.py", tmp_path, *SMALL)

    assert re.findall(r"^\| ([A-Z`][^|]*) \| 1\.00 ", text, re.MULTILINE) == [
        "Millhand, listing alone",
        "`os.walk` and `stat`, in no order",
    ]
    assert text.count("| Millhand, whole run, ") == 3
