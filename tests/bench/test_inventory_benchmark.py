"""A short run of the benchmark of inventories. Its figures are not tested."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEP = r": [\d.,]+ s, CPU [\d.,]+ s, spill [\d.,]+ GB\n"
LAST = r"50,000 objects, 10 differing keys, 200MB: peak memory [\d,]+ MiB\n"


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--export",)])
def test_a_short_run_prints_the_cost_of_each_step(words: tuple[str, ...]) -> None:
    """The benchmark compares a report with rows in Parquet, or exports them first, and counts what differs."""
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks/inventory.py",
            *("--objects", "50000", "--memory", "200MB", *words),
        ],
        capture_output=True,
        check=True,
        text=True,
    )

    steps = f"export{STEP}comparison{STEP}" if words else f"comparison{STEP}"
    assert re.fullmatch(steps + LAST, done.stdout)
