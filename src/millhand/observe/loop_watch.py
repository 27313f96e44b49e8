"""Observe from another thread whether an event loop runs, and find the line at which it hangs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from millhand.runtime.service import IntervalService

TURN_SECONDS = 1.0
NUM_TURNS_KEPT = 60
NUM_CALLERS = 3
NUM_PATH_PARTS = 2
_LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120 - a text to compare with, for each frame
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
        self._late_seconds: deque[float] = deque([0.0], maxlen=NUM_TURNS_KEPT)
        self._on_turn = on_turn
        self._ran_at = time.monotonic()
        self._thread_id = threading.get_ident()

    async def run_once(self) -> None:
        self._late_seconds.append(self.seconds)
        self._ran_at = time.monotonic()
        self._on_turn()

    @property
    def worst_seconds(self) -> float:
        """How late the loop was at most in its last `NUM_TURNS_KEPT` turns, a minute by default."""
        return max((*self._late_seconds, self.seconds))

    @property
    def seconds(self) -> float:
        """How long the loop has been late for its next turn; 0 while it is on time."""
        return max(time.monotonic() - self._ran_at - self.interval_seconds, 0.0)

    def position(self) -> str:
        """Return where the loop's thread is now."""
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001 - the documented way to another thread's frame
        return position_of(frame)


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
