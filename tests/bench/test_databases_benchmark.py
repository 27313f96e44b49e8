"""Claims about the benchmark of several databases in one process."""

from __future__ import annotations

import sys

import pytest

from user_programs import PROJECT, run_python

pytestmark = pytest.mark.slow


async def test_benchmark_of_several_databases_prints_its_ratio() -> None:
    """A short run works every job once in both ways, and prints a line for each and their ratio."""
    program = str(PROJECT / "benchmarks/several_databases.py")
    arguments = ("--jobs", "50", "--wait", "1", "--rounds", "1", "--slots", "5")
    python_path = ":".join(path for path in sys.path if path)

    ended = await run_python([program, *arguments], database_url="", python_path=python_path, seconds=120.0)

    assert (ended.code, ended.stderr) == (0, "")
    one, three, ratio = ended.stdout.splitlines()
    assert one.startswith("one process ")
    assert three.startswith("three processes ")
    assert ratio.startswith("one process to three: ")
