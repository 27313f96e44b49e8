"""Claims about the restarts of a process: which are due, and the pauses before them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from client_harness import GENEROUS
from millhand.process import DONE, NOT_DONE
from millhand.process.supervisor import Ending, Supervisor, pause_seconds

EARLY, LATE = Ending(1, 0.5), Ending(-9, 3_600.0)


@pytest.mark.parametrize(
    ("endings", "seconds"),
    [
        ([EARLY], 1.0),
        ([EARLY, EARLY, EARLY], 4.0),
        ([EARLY] * 20, 30.0),
        ([LATE], 1.0),
        ([EARLY, EARLY, EARLY, LATE], 1.0),
        ([EARLY, EARLY, LATE, EARLY, EARLY], 2.0),
    ],
    ids=["first", "third", "many", "late", "late after early", "early after late"],
)
def test_pause_grows_with_each_early_end(endings: list[Ending], seconds: float) -> None:
    """The pause doubles with each early exit up to 30 s, and a long run resets it."""
    assert pause_seconds(endings) == seconds


@pytest.mark.parametrize("code", [DONE, NOT_DONE])
async def test_emptied_process_is_not_restarted(tmp_path: Path, code: int) -> None:
    """With `until_empty`, a process that ends by itself is done, and its exit code is that of the command."""
    runs = tmp_path / "runs"
    command = [sys.executable, "-c", f"print('run', file=open({str(runs)!r}, 'a')); raise SystemExit({code})"]

    async with asyncio.timeout(GENEROUS):
        assert await Supervisor(command, 1, until_empty=True).run() == code

    assert runs.read_text() == "run\n"


async def test_killed_process_is_restarted_until_its_queues_are_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `until_empty`, a process that a signal kills has emptied nothing."""
    monkeypatch.setattr("millhand.process.supervisor.PAUSES_SECONDS", (0.01,))
    runs = tmp_path / "runs"
    program = f"""
import os, pathlib, signal
runs = pathlib.Path({str(runs)!r})
is_first = not runs.exists()
runs.open("a").write("run\\n")
if is_first:
    os.kill(os.getpid(), signal.SIGKILL)
"""

    async with asyncio.timeout(GENEROUS):
        assert await Supervisor([sys.executable, "-c", program], 1, until_empty=True).run() == DONE

    assert runs.read_text() == "run\nrun\n"
