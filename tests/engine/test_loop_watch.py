"""Claims about the place at which an event loop hangs."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from millhand.engine.loop_watch import LoopWatch, position_of

STDLIB = str(Path(os.__file__).parent / "ssl.py")
PACKAGE = "/opt/venv/lib/python3.13/site-packages/requests/api.py"


def called_through(*files: str) -> FrameType | None:
    """Return the frame of a function in the last file, called by functions in the files before, outermost first."""
    call: Callable[[], FrameType] = sys._getframe
    for file in reversed(files):
        names: dict[str, Callable[[], FrameType]] = {"call": call}
        exec(compile("\ndef f():\n    return call()\n", file, "exec"), names)  # noqa: S102 - frames of chosen files
        call = names["f"]
    return call()


@pytest.mark.parametrize(
    ("files", "position"),
    [
        (("/app/shop/jobs.py",), "shop/jobs.py:3 f"),
        (("/app/shop/jobs.py", PACKAGE, STDLIB), "ssl.py:3 f, called from shop/jobs.py:3 f"),
        (("/app/shop/jobs.py", "/app/shop/mail.py", STDLIB), "ssl.py:3 f, called from shop/mail.py:3 f"),
    ],
    ids=["application", "library", "nearest"],
)
def test_position_names_the_line_and_its_caller(files: tuple[str, ...], position: str) -> None:
    """It is file, line and function; for a line of a library, with the nearest caller in the application."""
    shown = position_of(called_through(*files))

    assert shown.removeprefix(f"{Path(STDLIB).parent.name}/") == position


def test_position_of_no_frame_is_unknown() -> None:
    """A thread that has ended has no position."""
    assert position_of(None) == "an unknown line"


async def test_other_thread_sees_where_the_loop_is() -> None:
    """The position is that of the loop's own thread, in its current line."""
    watch = LoopWatch()
    positions: list[str] = []

    thread = threading.Thread(target=lambda: positions.append(watch.position()))
    thread.start()
    thread.join()

    here = r"called from engine/test_loop_watch\.py:\d+ test_other_thread_sees_where_the_loop_is"
    assert re.search(here, positions[0])
