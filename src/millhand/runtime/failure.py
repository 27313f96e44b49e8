"""What is kept of an error in the row of its job: its words and its stack, neither without end."""

from __future__ import annotations

import asyncio
import traceback
from types import TracebackType

from millhand.errors import InvalidJob, JobTimeout, UnknownKind

# The innermost frames are what matters; 16 KiB hold about a hundred of them.
TRACE_LENGTH_MAX = 16 * 1024
# A row is read whole at each fetch, and keeps an error of each of its attempts.
ERROR_LENGTH_MAX = 16 * 1024

_OUR_MODULES = ("millhand.runtime.", "millhand.worker", "millhand.observe.job_log", "millhand.contrib.")


def error_text(error: BaseException) -> str:
    """Return what is kept of an error in its row: its type and its first words; never an error itself."""
    name, words = type(error).__name__, safe_str(error)
    if len(words) > ERROR_LENGTH_MAX:
        words = f"{words[:ERROR_LENGTH_MAX]}… ({len(words):,} characters)"
    return f"{name}: {words}" if words else name


def safe_str(error: BaseException) -> str:
    """Return what an error says; never an error itself, for those of users' code are told where no other may be raised."""
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a user's own __str__
        return f"<its text raised {type(broken).__name__}>"


def is_from_outside(error: BaseException) -> bool:
    """
    Whether what the user's code raised is not its own, but tells the task to end; SystemExit is its own, as a worker's is.

    A CancelledError is its own unless the task was cancelled: it is that of something which the code awaited.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, GeneratorExit | KeyboardInterrupt)


def trace_of(error: BaseException) -> str:
    """Return the stack that is kept with an error: `TRACE_LENGTH_MAX` characters, of its innermost frames and its words."""
    stack = "".join(traceback.format_tb(error.__traceback__))
    try:
        text = "".join(traceback.format_exception(error))
        words = "".join(traceback.format_exception_only(error))
    except Exception:  # noqa: BLE001 - a user's own __str__ or __repr__ again
        text, words = stack, ""
    if len(text) <= TRACE_LENGTH_MAX:
        return text
    words = words[
        : TRACE_LENGTH_MAX // 4
    ]  # a long text must not take the frames' place; all of it is in the error
    return f"…{stack[len(words) - TRACE_LENGTH_MAX :]}{words}"


def from_the_users_code(stack: TracebackType | None) -> TracebackType | None:
    """Return `stack` from where our code called the user's; all of it if it never did."""
    frame = stack
    while frame is not None and str(frame.tb_frame.f_globals.get("__name__")).startswith(_OUR_MODULES):
        frame = frame.tb_next
    return stack if frame is None else frame


def is_own(error: BaseException) -> bool:
    """Whether the stack of `error` would only show Millhand's own."""
    return isinstance(error, JobTimeout | UnknownKind | InvalidJob)
