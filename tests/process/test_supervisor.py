"""Claims about the restarts of a process: which are due, and the pauses before them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import pytest

from client_harness import GENEROUS, until
from millhand.process.observer import ObserveSettings
from millhand.process.supervisor import Ending, Supervisor, pause_seconds
from millhand.process.supervisor_observer import SupervisorObserver
from millhand.shells.exit_code import DONE, NOT_DONE

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


@pytest.mark.slow
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


@pytest.mark.slow
async def test_process_that_cannot_be_started_is_tried_again_while_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the system refuses to start a process, the supervisor logs the error, keeps the others and tries again."""
    monkeypatch.setattr("millhand.process.supervisor.PAUSES_SECONDS", (0.01,))
    program, away, pids = tmp_path / "python", tmp_path / "away", tmp_path / "pids"
    program.symlink_to(sys.executable)
    pids.touch()
    # SIGTERM is blocked, as the supervisor blocks it, until the process waits for it.
    worker = f"""
import os, signal
open({str(pids)!r}, "a").write(f"{{os.getpid()}}\\n")
signal.sigwait({{signal.SIGTERM}})
"""
    settings = ObserveSettings(address=None, file=None, live_seconds=120.0, manager=None)
    observer = SupervisorObserver(settings, 2)
    supervisor = Supervisor([str(program), "-c", worker], 2, until_empty=False, observer=observer)

    async with asyncio.timeout(GENEROUS), observer:
        running = asyncio.create_task(supervisor.run())
        await until(lambda: pids.read_text().count("\n") == 2 or running.done())
        program.rename(away)
        os.kill(int(pids.read_text().split()[0]), signal.SIGKILL)
        await until(lambda: _logged(caplog, "worker process not started") or running.done())
        away.rename(program)
        await until(lambda: pids.read_text().count("\n") == 3 or running.done())
        supervisor.on_signal("SIGTERM", 1)
        await running

    refused = vars(_logged(caplog, "worker process not started")[0])
    assert (refused["error_type"], refused["sleep_seconds"]) == ("FileNotFoundError", 0.01)
    assert len(_logged(caplog, "worker process ended")) == 1
    assert running.result() == DONE


def _logged(caplog: pytest.LogCaptureFixture, message: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.msg == message]
