"""Claims about how failed attempts are reported."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from millhand.core.errors import JobTimeout
from millhand.core.hooks import AttemptFailure
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.log.logger import FieldRecord
from millhand.engine.error_handler import ErrorHandlers, LoggingErrorHandler, error_text, error_type

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LOGGER = "millhand.engine.error_handler"


class StandingClock:
    """A clock that always returns NOW."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


class Recorder:
    """A user's handler that records its failures and returns a fixed answer."""

    def __init__(self, answer: bool | None = None) -> None:
        self.answer = answer
        self.failures: list[AttemptFailure] = []

    async def handle_error(self, failure: AttemptFailure) -> bool | None:
        self.failures.append(failure)
        return self.answer


class Broken:
    """A user's handler that raises."""

    async def handle_error(self, failure: AttemptFailure) -> bool | None:
        raise RuntimeError("the pager is down")


def failure_of(
    error: BaseException,
    state: JobState = JobState.RETRYABLE,
    next_in: timedelta | None = timedelta(seconds=16),
) -> AttemptFailure:
    row = JobRow(
        id=JobId(7),
        state=JobState.RUNNING,
        attempt=2,
        max_attempts=25,
        attempted_at=NOW,
        created_at=NOW,
        finalized_at=None,
        scheduled_at=NOW,
        priority=1,
        encoded_args='{"card": "4111"}',
        attempted_by=("c1",),
        errors=(),
        kind="charge",
        metadata={"secret": "s"},
        queue="billing",
        tags=(),
        unique_key=None,
        unique_states=None,
    )
    return AttemptFailure(
        job=row,
        error=error,
        trace="",
        state=state,
        next_attempt_at=None if next_in is None else NOW + next_in,
        run_seconds=0.25,
    )


def fields(record: logging.LogRecord) -> dict[str, object]:
    """Return the `extra` of a record."""
    assert isinstance(record, FieldRecord)
    return dict(record.own_fields)


def handlers(*given: object) -> ErrorHandlers:
    return ErrorHandlers(given, log=LoggingErrorHandler(StandingClock()))  # type: ignore[arg-type]


ATTEMPT = {
    "job_id": 7,
    "kind": "charge",
    "queue": "billing",
    "attempt": 2,
    "max_attempts": 25,
    "error_type": "ValueError",
    "error": "card declined",
    "run_seconds": 0.25,
}


async def test_error_handler_logs_job_errored_before_a_retry(caplog: pytest.LogCaptureFixture) -> None:
    """A failed attempt is one WARNING with attempt, error and time of the retry, without args or metadata."""
    is_cancelled = await handlers().handle(failure_of(ValueError("card declined")))

    (record,) = caplog.records
    assert not is_cancelled
    assert (record.levelname, record.msg, record.name) == ("WARNING", "job errored", LOGGER)
    assert fields(record) == {
        **ATTEMPT,
        "state": "retryable",
        "next_attempt_at": "2026-03-01T12:00:16+00:00",
        "seconds": 16.0,
    }


async def test_error_handler_logs_job_discarded_after_the_last_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The last failed attempt is an ERROR without a next attempt, and its message names the job."""
    await handlers().handle(failure_of(ValueError("card declined"), JobState.DISCARDED, None))

    (record,) = caplog.records
    assert record.getMessage() == (
        "job discarded kind=charge job_id=7 attempt=2/25 queue=billing state=discarded error_type=ValueError "
        'error="card declined" run_seconds=0.25'
    )
    assert (record.levelname, record.msg) == ("ERROR", "job discarded")
    assert fields(record) == {**ATTEMPT, "state": "discarded"}


async def test_error_handler_logs_job_cancelled_if_a_handler_cancels(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler that returns True cancels the job; the other handlers are still called, and the line says cancelled."""
    first, second = Recorder(answer=True), Recorder()
    failure = failure_of(ValueError("card declined"))

    is_cancelled = await handlers(first, second).handle(failure)

    (record,) = caplog.records
    assert is_cancelled
    assert first.failures == second.failures == [failure]
    assert (record.levelname, record.msg) == ("WARNING", "job cancelled")
    assert fields(record) == {**ATTEMPT, "state": "cancelled"}


async def test_error_handler_survives_a_broken_handler(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises is logged and cancels nothing, and the other handlers are called."""
    after = Recorder()

    is_cancelled = await handlers(Broken(), after).handle(failure_of(ValueError("card declined")))

    broken, line = caplog.records
    assert not is_cancelled
    assert len(after.failures) == 1
    assert (broken.levelname, broken.msg) == ("ERROR", "error handler failed")
    assert broken.exc_info is not None
    assert fields(broken) | {"handler": ""} == {
        "job_id": 7,
        "kind": "charge",
        "queue": "billing",
        "attempt": 2,
        "max_attempts": 25,
        "state": "retryable",
        "error": "the pager is down",
        "error_type": "RuntimeError",
        "handler": "",
    }
    assert str(vars(broken)["handler"]).endswith("test_error_handler.Broken")
    assert line.msg == "job errored"


async def test_error_handler_survives_a_cancelled_await_of_a_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler whose awaited task was cancelled has failed; the attempt itself is not cancelled."""

    class Cut:
        async def handle_error(self, failure: AttemptFailure) -> bool:
            connecting = asyncio.get_running_loop().create_future()
            connecting.cancel()
            await connecting
            return True

    is_cancelled = await handlers(Cut()).handle(failure_of(ValueError("card declined")))

    assert not is_cancelled
    assert [record.msg for record in caplog.records] == ["error handler failed", "job errored"]


async def test_error_handler_survives_system_exit_in_a_handler(caplog: pytest.LogCaptureFixture) -> None:
    """A handler's SystemExit counts as a failure of the handler; the process and the other handlers continue."""

    class Leaving:
        async def handle_error(self, failure: AttemptFailure) -> bool:
            raise SystemExit(3)

    is_cancelled = await handlers(Leaving()).handle(failure_of(ValueError("card declined")))

    assert not is_cancelled
    assert [record.msg for record in caplog.records] == ["error handler failed", "job errored"]


async def test_error_handler_logs_tracebacks_of_users_errors_only(caplog: pytest.LogCaptureFixture) -> None:
    """The line has the traceback of the user's code; our own timeouts have none."""
    raised: list[BaseException] = []
    for error in (ValueError("card declined"), JobTimeout(30)):
        try:
            raise error
        except Exception as caught:
            raised.append(caught)

    for error in raised:
        await handlers().handle(failure_of(error))

    assert [record.exc_info is not None for record in caplog.records] == [True, False]
    assert vars(caplog.records[1])["error_type"] == "millhand.JobTimeout"


async def test_error_handler_logs_no_negative_wait(caplog: pytest.LogCaptureFixture) -> None:
    """An attempt that is already due has zero seconds, even if clocks differ."""
    await handlers().handle(failure_of(ValueError("x"), JobState.AVAILABLE, timedelta(seconds=-3)))

    assert vars(caplog.records[0])["seconds"] == 0.0


class Mute(Exception):
    """An error whose __str__ raises."""

    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("card declined"), "card declined"),
        (ValueError(), "ValueError()"),
        (Mute(), "Mute cannot be shown: its __str__ raised LookupError"),
        (ValueError("x" * 1_001), "x" * 1_000 + "… (1,001 characters)"),
    ],
)
def test_error_text_is_never_empty(error: BaseException, text: str) -> None:
    """An error without a message gives its repr, a long message is cut, and a failing __str__ is reported."""
    assert error_text(error) == text


def test_error_text_cuts_no_password_in_two() -> None:
    """A password that goes past the end of a shortened message is masked."""
    error = ValueError("x" * 977 + " postgresql://ann:sesame@db")

    assert error_text(error) == "x" * 977 + " postgresql://ann:***@d… (1,004 characters)"


def test_error_type_is_the_qualified_name() -> None:
    """Built-in errors have their bare name, others their module too."""
    assert (error_type(KeyError("k")), error_type(JobTimeout(1))) == ("KeyError", "millhand.JobTimeout")
