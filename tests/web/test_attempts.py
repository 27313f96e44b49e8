from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from millhand.core.job import AttemptError, JobId, JobState
from millhand.engine.store.job_details import JobDetails, JsonText
from millhand.engine.store.job_row import GO_ZERO_TIME
from millhand.web.attempts import attempts_of

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
FAILED_AT = NOW - timedelta(minutes=5)
EMPTY = JsonText(text="{}", num_bytes=2, is_cut=False)


def details(**fields: Any) -> JobDetails:
    given = {
        "id": JobId(1), "state": JobState.AVAILABLE, "attempt": 0, "max_attempts": 25, "attempted_at": None,
        "created_at": NOW, "finalized_at": None, "scheduled_at": NOW, "priority": 1, "kind": "send_mail",
        "queue": "default", "tags": (), "args": EMPTY, "metadata": EMPTY, "output": None, "attempted_by": (),
        "num_fetches": 0, "errors": (), "num_errors": 0, "logs": {}, "is_cancel_requested": False, "unique_key": None,
    }  # fmt: skip
    return JobDetails(**{**given, **fields})


def error(attempt: int, text: str = "Boom: no answer") -> AttemptError:
    return AttemptError(at=FAILED_AT, attempt=attempt, error=text)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"state": JobState.CANCELLED, "finalized_at": NOW}, []),
        (
            {"state": JobState.RUNNING, "attempt": 1, "attempted_at": NOW, "attempted_by": ("a",), "num_fetches": 1},
            [(1, "running", "a", None)],
        ),
        (
            {
                "state": JobState.COMPLETED, "attempt": 2, "attempted_by": ("b", "a"), "num_fetches": 2,
                "errors": (error(1),), "logs": {1: "one", 2: "two"},
            },
            [(2, "succeeded", "b", "two"), (1, "failed", "a", "one")],
        ),
        (
            {
                "state": JobState.RETRYABLE, "attempt": 2, "attempted_by": ("c", "b", "a"), "num_fetches": 3,
                "errors": (error(2, "Job rescued by ClientRescuer: client 'c' died"), error(1)),
            },
            [(2, "rescued", "c", None), (1, "failed", None, None)],
        ),
        (
            {"state": JobState.CANCELLED, "attempt": 1, "errors": (error(1),), "attempted_by": ("a",), "num_fetches": 1},
            [(1, "failed", "a", None)],
        ),
        (
            {"state": JobState.SCHEDULED, "attempt": 0, "attempted_by": ("a",), "num_fetches": 1, "logs": {1: "one"}},
            [(1, "unknown", None, "one")],
        ),
    ],
    ids=["new", "cancelled new", "running", "succeeded", "snoozed and rescued", "cancelled", "snoozed"],
)  # fmt: skip
def test_attempts_are_read_from_the_row(fields: dict[str, Any], expected: list[tuple[object, ...]]) -> None:
    """Each attempt has its outcome and log, and a client only where the row proves which one it was."""
    attempts = attempts_of(details(**fields))

    assert [(one.number, one.outcome.value, one.client_id, one.log) for one in attempts] == expected


def test_time_of_an_invalid_error_is_unknown() -> None:
    """An error whose instant could not be read has no start."""
    [attempt] = attempts_of(details(attempt=1, errors=(AttemptError(at=GO_ZERO_TIME, attempt=1, error="x"),)))

    assert attempt.started_at is None
