"""Formats an error for the row of its job: a bounded text and a bounded stack."""

from __future__ import annotations

import asyncio
import traceback
from types import TracebackType

from millhand.core.errors import InvalidJob, JobTimeout, UnknownKind

# 16 KiB hold about a hundred frames. The innermost ones are kept.
TRACE_LENGTH_MAX = 16 * 1024
# A fetch reads the whole row, which keeps one error for each attempt.
ERROR_LENGTH_MAX = 16 * 1024

_OUR_MODULES = (
    "millhand.engine.",
    "millhand.core.worker",
    "millhand.observe.job_log",
    "millhand.contrib.",
    "millhand.tracing.",
)


def error_text(error: BaseException) -> str:
    """Return an error's type and the beginning of its text, for the job's row. Never raises."""
    name, text = type(error).__name__, safe_str(error)
    if len(text) > ERROR_LENGTH_MAX:
        text = f"{text[:ERROR_LENGTH_MAX]}… ({len(text):,} characters)"
    return f"{name}: {text}" if text else name


def safe_str(error: BaseException) -> str:
    """Return `str(error)`. Never raises: errors of users' code are logged where no other error may be raised."""
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a user's own __str__
        return f"<its text raised {type(broken).__name__}>"


def error_fields(error: BaseException) -> dict[str, object]:
    return {"error_type": type(error).__name__, "error": safe_str(error)}


def is_task_ending(error: BaseException) -> bool:
    """
    Return whether an error that came out of user code ends the task, and is no failure of that code.

    SystemExit is a failure of the code. So is a CancelledError of a task that was not cancelled: it comes from something
    that the code awaited.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, GeneratorExit | KeyboardInterrupt)


def trace_of(error: BaseException) -> str:
    """Return the stack to keep with an error: its innermost frames and its text, `TRACE_LENGTH_MAX` characters at most."""
    stack = "".join(traceback.format_tb(error.__traceback__))
    try:
        text = "".join(traceback.format_exception(error))
        ending = "".join(traceback.format_exception_only(error))
    except Exception:  # noqa: BLE001 - a user's own __str__ or __repr__
        text, ending = stack, ""
    if len(text) <= TRACE_LENGTH_MAX:
        return text
    # The frames keep most of the space; the row has the error's text as well.
    ending = ending[: TRACE_LENGTH_MAX // 4]
    return f"…{stack[len(ending) - TRACE_LENGTH_MAX :]}{ending}"


def without_own_frames(stack: TracebackType | None) -> TracebackType | None:
    """Return `stack` from the frame where Millhand called user code; all of it if there is none."""
    frame = stack
    while frame is not None and str(frame.tb_frame.f_globals.get("__name__")).startswith(_OUR_MODULES):
        frame = frame.tb_next
    return stack if frame is None else frame


def is_own(error: BaseException) -> bool:
    """Return whether the stack of `error` contains only Millhand's frames."""
    return isinstance(error, JobTimeout | UnknownKind | InvalidJob)
