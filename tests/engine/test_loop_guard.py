"""Claims about the log lines of code that blocks the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from millhand.engine import loop_guard
from millhand.engine.loop_guard import HangCounts, LoopGuard
from millhand.engine.loop_watch import is_waiting, late_since


def test_place_is_logged_once_a_minute_with_the_hangs_between() -> None:
    """Another place is logged at once."""
    counts = HangCounts()

    logged = [
        counts.add(at, now) for at, now in [("a", 0), ("a", 5), ("a", 59), ("b", 59), ("a", 60), ("a", 61)]
    ]

    assert logged == [1, 0, 0, 1, 3, 0]


@pytest.mark.parametrize(
    ("turns", "late"),
    [([], 0), ([(10, 3)], 0), ([(11, 3)], 1), ([(20, 8)], 8), ([(20, 15), (30, 2)], 12)],
    ids=["on time", "before", "in part", "whole", "several"],
)
def test_late_seconds_are_those_since_the_instant(turns: list[tuple[float, float]], late: float) -> None:
    """A turn counts with the time between when it was due, or the instant if that is later, and when it came."""
    assert late_since(10, turns) == late


async def test_loop_that_waits_is_not_blocked() -> None:
    """A process that was stopped while its loop waited is late, and no line of code is at fault."""
    guard = LoopGuard()
    is_waiting_here = is_waiting(guard.frame())

    await asyncio.to_thread(look_until_waiting, guard)

    assert not is_waiting_here


def look_until_waiting(guard: LoopGuard) -> None:
    while not is_waiting(guard.frame()):
        pass


async def test_lasting_hang_is_logged_while_it_lasts_and_at_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, loop_guard_log: logging.Logger
) -> None:
    """The first line names the code, the second one how long it took; a short hang has one line, at its end."""
    loop_guard_log.disabled = False
    caplog.set_level(logging.INFO, loop_guard_log.name)
    guard = LoopGuard()
    names = []
    for lasting in (60.0, 3.0):
        monkeypatch.setattr(loop_guard, "LASTING_SECONDS", lasting)
        monkeypatch.setattr(guard, "_counts", HangCounts())
        guard._ran_at -= 1 + 5.0
        look = threading.Thread(target=guard._look)
        look.start()
        look.join()
        await guard.run_once()
        names.append([record.msg for record in caplog.records])
        assert all(5.0 <= record.seconds < 60.0 for record in caplog.records)
        assert "test_lasting_hang_is_logged" in caplog.records[0].at
        caplog.clear()

    assert names == [["event loop blocked"], ["event loop blocked", "event loop runs again"]]
