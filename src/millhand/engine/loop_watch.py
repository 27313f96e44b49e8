"""Observe from another thread whether an event loop runs, and find the line at which it hangs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

from millhand.engine.service import IntervalService

TURN_SECONDS = 1.0
NUM_TURNS_KEPT = 60
NUM_CALLERS = 3
NUM_PATH_PARTS = 2
_LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120 - a text to compare with, for each frame
_ASYNCIO = os.path.join(_LIBRARY, "asyncio", "runners.")  # noqa: PTH118
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class LoopWatch(IntervalService):
    """
    Records each second that its event loop runs, and then calls `on_turn`.

    Concurrency: other threads may call `seconds` and `position` at any time. Nothing is locked, so neither waits.
    """

    def __init__(
        self, on_turn: Callable[[], None] = lambda: None, turn_seconds: float = TURN_SECONDS
    ) -> None:
        super().__init__()
        self.interval_seconds = turn_seconds
        # When it ran, and how late it was then.
        self._turns: deque[tuple[float, float]] = deque(maxlen=NUM_TURNS_KEPT)
        self._on_turn = on_turn
        self._ran_at = time.monotonic()
        self._thread_id = threading.get_ident()

    async def run_once(self) -> None:
        late = self.seconds
        self._ran_at = time.monotonic()
        self._turns.append((self._ran_at, late))
        self._on_turn()

    @property
    def worst_seconds(self) -> float:
        """How late the loop was at most in its last `NUM_TURNS_KEPT` turns, a minute by default."""
        return max([self.seconds, *(late for _, late in list(self._turns))])

    @property
    def seconds(self) -> float:
        """How long the loop has been late for its next turn; 0 while it is on time."""
        return max(time.monotonic() - self._ran_at - self.interval_seconds, 0.0)

    def late_seconds(self, since: float) -> float:
        """Return for how much of the time since an instant of the monotonic clock the loop was late."""
        return late_since(since, [*self._turns, (time.monotonic(), self.seconds)])

    def position(self) -> str:
        """Return where the loop's thread is now."""
        return position_of(self.frame())

    def frame(self) -> FrameType | None:
        return sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the documented way to another thread's frame


def late_since(since: float, turns: Iterable[tuple[float, float]]) -> float:
    return sum(max(min(late, ran_at - since), 0.0) for ran_at, late in turns)


def is_waiting(frame: FrameType | None) -> bool:
    """Return whether a loop's thread waits for events, so that no code blocks it: its process may have been stopped."""
    if frame is None:
        return True
    caller = None if frame.f_back is None else frame.f_back.f_code.co_name
    if (frame.f_code.co_name, caller) == ("select", "_run_once"):
        return True
    # uvloop waits in C, called by asyncio's runner.
    return frame.f_code.co_filename.startswith(_ASYNCIO) and frame.f_code.co_name == "run"


def position_of(frame: FrameType | None) -> str:
    """
    Return file, line and function of a frame, without values.

    In a library, the caller in the application is added, or the callers nearby if all code is a library's.
    """
    frames = []
    while frame is not None:
        frames.append(frame)
        if not _is_library(frame.f_code.co_filename):
            break
        frame = frame.f_back
    nearby = frames[:NUM_CALLERS] if frame is None else [frames[0], *frames[1:][-1:]]
    return ", called from ".join(map(_shown, nearby)) or "an unknown line"


def _shown(frame: FrameType) -> str:
    file = "/".join(Path(frame.f_code.co_filename).parts[-NUM_PATH_PARTS:])
    return f"{file}:{frame.f_lineno} {frame.f_code.co_qualname}"


def _is_library(file: str) -> bool:
    return file.startswith(("<frozen", _LIBRARY)) or any(part in file for part in _PACKAGES)
