"""The benchmark of the archive, with few jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.slow
def test_archive_benchmark_prints_its_figures() -> None:
    """A small run archives and finds jobs, and the process that writes stays below 256 MiB."""
    done = subprocess.run(
        [sys.executable, PROJECT / "benchmarks" / "archive.py", "--jobs", "2000", "--search-jobs", "6000"],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    figures = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert figures["search of 6,000 jobs"].endswith(" s, 3 found")
    memory = float(figures["memory of the process that writes, at most"].removesuffix(" MiB"))
    assert memory < 256
