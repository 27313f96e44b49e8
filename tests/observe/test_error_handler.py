"""Claims about how failed attempts are told."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest

from millhand.errors import JobTimeout
from millhand.hooks import AttemptFailure
from millhand.job import JobId, JobRow, JobState
from millhand.observe.error_handler import ErrorHandlers, LoggingErrorHandler, error_text, error_type

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LOGGER = "millhand.observe.error_handler"


class StandingClock:
    """It is always NOW."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


class Recorder:
    """A user's handler that remembers what it was told, and answers as it was made to."""

    def __init__(self, answer: bool | None = None) -> None:
        self.answer = answer
        self.failures: list[AttemptFailure] = []

    async def handle_error(self, failure: AttemptFailure) -> bool | None:
        self.failures.append(failure)
        return self.answer


class Broken:
    """A user's handler that fails."""

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
    """What a record was given as `extra`."""
    usual = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
    return {key: value for key, value in vars(record).items() if key not in usual}


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


async def test_error_handler_logs_job_errored_when_there_is_another_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A failed attempt is one WARNING with the attempt, the error and when it is tried again; never args or metadata."""
    is_cancelled = await handlers().handle(failure_of(ValueError("card declined")))

    (record,) = caplog.records
    assert not is_cancelled
    assert (record.levelname, record.getMessage(), record.name) == ("WARNING", "job errored", LOGGER)
    assert fields(record) == {
        **ATTEMPT,
        "state": "retryable",
        "next_attempt_at": "2026-03-01T12:00:16+00:00",
        "seconds": 16.0,
    }


async def test_error_handler_logs_job_discarded_when_it_was_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The last failed attempt is an ERROR, and speaks of no next one."""
    await handlers().handle(failure_of(ValueError("card declined"), JobState.DISCARDED, None))

    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "job discarded")
    assert fields(record) == {**ATTEMPT, "state": "discarded"}


async def test_error_handler_logs_job_cancelled_when_a_handler_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler that returns True cancels the job, all others are told as well, and the line tells the truth."""
    first, second = Recorder(answer=True), Recorder()
    failure = failure_of(ValueError("card declined"))

    is_cancelled = await handlers(first, second).handle(failure)

    (record,) = caplog.records
    assert is_cancelled
    assert first.failures == second.failures == [failure]
    assert (record.levelname, record.getMessage()) == ("WARNING", "job cancelled")
    assert fields(record) == {**ATTEMPT, "state": "cancelled"}


async def test_error_handler_survives_a_broken_handler(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises is logged, cancels nothing, and keeps nobody else from being told."""
    after = Recorder()

    is_cancelled = await handlers(Broken(), after).handle(failure_of(ValueError("card declined")))

    broken, line = caplog.records
    assert not is_cancelled
    assert len(after.failures) == 1
    assert (broken.levelname, broken.getMessage()) == ("ERROR", "error handler failed")
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
    assert line.getMessage() == "job errored"


async def test_error_handler_survives_what_a_handler_awaited_being_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler that awaits something which is cancelled elsewhere has failed; nobody has cancelled the attempt."""

    class Cut:
        async def handle_error(self, failure: AttemptFailure) -> bool:
            connecting = asyncio.get_running_loop().create_future()
            connecting.cancel()
            await connecting
            return True

    is_cancelled = await handlers(Cut()).handle(failure_of(ValueError("card declined")))

    assert not is_cancelled
    assert [record.getMessage() for record in caplog.records] == ["error handler failed", "job errored"]


async def test_error_handler_survives_a_handler_that_would_end_the_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler's SystemExit is its failure, as a worker's is one of its attempt; the process and the others go on."""

    class Leaving:
        async def handle_error(self, failure: AttemptFailure) -> bool:
            raise SystemExit(3)

    is_cancelled = await handlers(Leaving()).handle(failure_of(ValueError("card declined")))

    assert not is_cancelled
    assert [record.getMessage() for record in caplog.records] == ["error handler failed", "job errored"]


async def test_error_handler_shows_the_stack_of_users_errors_only(caplog: pytest.LogCaptureFixture) -> None:
    """The line carries the stack to where the user's code failed; a timeout of ours has none worth reading."""
    raised: list[BaseException] = []
    for error in (ValueError("card declined"), JobTimeout(30)):
        try:
            raise error
        except Exception as caught:
            raised.append(caught)

    for error in raised:
        await handlers().handle(failure_of(error))

    assert [record.exc_info is not None for record in caplog.records] == [True, False]
    assert vars(caplog.records[1])["error_type"] == "millhand.errors.JobTimeout"


async def test_error_handler_never_tells_a_negative_wait(caplog: pytest.LogCaptureFixture) -> None:
    """An attempt that is due already is due in no time, however the clocks disagree."""
    await handlers().handle(failure_of(ValueError("x"), JobState.AVAILABLE, timedelta(seconds=-3)))

    assert vars(caplog.records[0])["seconds"] == 0.0


class Mute(Exception):
    """An error whose text fails."""

    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("card declined"), "card declined"),
        (ValueError(), "ValueError()"),
        (Mute(), "Mute cannot be shown: its text raised LookupError"),
        (ValueError("x" * 1_001), "x" * 1_000 + "… (1,001 characters)"),
    ],
)
def test_error_text_always_says_something(error: BaseException, text: str) -> None:
    """An error without a text is shown by its repr, a long one shortened, and a broken one survived."""
    assert error_text(error) == text


def test_error_type_is_how_it_is_imported() -> None:
    """Built-in errors go by their bare name, others by their module's."""
    assert (error_type(KeyError("k")), error_type(JobTimeout(1))) == (
        "KeyError",
        "millhand.errors.JobTimeout",
    )
