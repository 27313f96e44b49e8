"""The claim of `./just standstill`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STANDSTILL = Path(__file__).parent / "standstill.py"
# Of 3 s, another process sees at least one in which this one did not run.
WATCHED = """
import time

def test_time_passes():
    longest, before = 0.0, time.monotonic()
    while time.monotonic() < END:
        longest, before = max(longest, time.monotonic() - before), time.monotonic()
    assert longest > 0.9
"""


def test_processes_stand_still_and_go_on(tmp_path: Path) -> None:
    """A test's process is stopped for the seconds that are given, goes on, and its result is the program's."""
    test = tmp_path / "test_watched.py"
    test.write_text(WATCHED.replace("END", "before + 0.001 if longest > 0.9 else before + 60"))
    command = [sys.executable, str(STANDSTILL), "--seconds", "1", "--every", "1", "--kinds", "others"]

    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-n", "0", str(test)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "others: 1 processes stand still for 1 s" in run.stdout
