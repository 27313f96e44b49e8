"""Pass each failed attempt to the user's error handlers, then log it in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from millhand.core.clock import Clock, SystemClock
from millhand.core.errors import MillhandError, error_type
from millhand.core.hooks import AttemptFailure, ErrorHandler
from millhand.core.job import JobState
from millhand.core.log.logger import logger_of
from millhand.core.secret import masked_head
from millhand.db.driver.tx_executor import class_name
from millhand.engine.error_text import is_task_ending

logger = logger_of(__name__)

# An error text may be a whole document, such as a gateway's HTML page; the row keeps all of it.
ERROR_LENGTH_MAX = 1_000


class ErrorHandlers:
    """
    Calls the user's error handlers in order, then logs what happens to the job.

    Every handler is called, whatever the others return. A handler that raises is logged; it neither cancels the job nor
    prevents its retry.
    """

    __slots__ = ("_handlers", "_log")

    def __init__(self, handlers: Sequence[ErrorHandler] = (), log: ErrorHandler | None = None) -> None:
        self._handlers = tuple(handlers)
        self._log = LoggingErrorHandler() if log is None else log

    async def handle(self, failure: AttemptFailure) -> bool:
        """Pass `failure` to every handler; return whether one of them cancels the job."""
        is_cancelled = False
        for handler in self._handlers:
            is_cancelled |= await _cancels(handler, failure)
        if is_cancelled:
            failure = msgspec.structs.replace(failure, next_attempt_at=None, state=JobState.CANCELLED)
        await _cancels(self._log, failure)
        return is_cancelled


class LoggingErrorHandler:
    """
    Logs a failed attempt as `job errored` if another attempt follows, else as `job discarded` or `job cancelled`.

    `on_failure` gets the kind of the job and the class of the error.
    """

    __slots__ = ("_clock", "_on_failure")

    def __init__(
        self, clock: Clock | None = None, *, on_failure: Callable[[str, str], None] | None = None
    ) -> None:
        self._clock = SystemClock() if clock is None else clock
        self._on_failure = on_failure

    async def handle_error(self, failure: AttemptFailure) -> None:
        if self._on_failure is not None:
            self._on_failure(failure.job.kind, error_type(failure.error))
        # The traceback of our own errors, such as a timeout, shows none of the user's code.
        is_own = isinstance(failure.error, MillhandError) or failure.error.__traceback__ is None
        trace = None if is_own else failure.error
        fields = {**_attempt_fields(failure), "run_seconds": round(failure.run_seconds, 6)}
        if failure.state is JobState.DISCARDED:
            logger.error("job discarded", extra=fields, exc_info=trace)
        elif failure.state is JobState.CANCELLED or failure.next_attempt_at is None:
            logger.warning("job cancelled", extra=fields, exc_info=trace)
        else:
            due = failure.next_attempt_at
            seconds = max((due - self._clock.now()).total_seconds(), 0.0)
            fields |= {"next_attempt_at": due.isoformat(), "seconds": round(seconds, 3)}
            logger.warning("job errored", extra=fields, exc_info=trace)


def error_text(error: BaseException, length_max: int = ERROR_LENGTH_MAX) -> str:
    """Return the shortened message of an error without secrets, or its repr if the message is empty. Never raises."""
    try:
        text = str(error) or repr(error)
    except Exception as broken:  # noqa: BLE001 - a user's own __str__
        text = f"{type(error).__name__} cannot be shown: its __str__ raised {type(broken).__name__}"
    cut = f"… ({len(text):,} characters)" if len(text) > length_max else ""
    return f"{masked_head(text, length_max)}{cut}"


async def _cancels(handler: ErrorHandler, failure: AttemptFailure) -> bool:
    try:
        return await handler.handle_error(failure) is True
    except BaseException as broken:
        if is_task_ending(broken):
            raise
        fields = {**_attempt_fields(failure), "handler": class_name(handler)}
        fields |= {"error": error_text(broken), "error_type": error_type(broken)}
        logger.exception("error handler failed", extra=fields)
        return False


def _attempt_fields(failure: AttemptFailure) -> dict[str, object]:
    job = failure.job
    return {
        "job_id": job.id,
        "kind": job.kind,
        "queue": job.queue,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "state": failure.state.value,
        "error_type": error_type(failure.error),
        "error": error_text(failure.error),
    }
