"""Errors and signals."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import pytest

from millhand.core.errors import (
    ConnectionLost,
    DriverError,
    InvalidText,
    InvalidWhere,
    JobCancel,
    JobRunning,
    JobSignal,
    JobSnooze,
    JobTimeout,
    MillhandError,
    NotFound,
    OperationTimeout,
    PoolClosed,
    SchemaError,
    UniqueConflict,
    UnknownKind,
)


@pytest.mark.parametrize(
    ("error", "message", "attributes"),
    [
        (NotFound("job", 7), "job must exist, found none with id 7", {"subject": "job", "key": 7}),
        (
            JobRunning(7),
            "job must not be running to be deleted, got job 7 running; cancel it first",
            {"id": 7},
        ),
        (
            UniqueConflict(7),
            "unique key must be free, got job 7 in conflict with another job (river_job_unique_idx)",
            {"id": 7, "constraint": "river_job_unique_idx"},
        ),
        (
            UniqueConflict(None),
            (
                "unique key must be free, got a job in conflict with another job (river_job_unique_idx); "
                "insert_many skips duplicates"
            ),
            {"id": None},
        ),
        (
            InvalidText("queue_pause", "name", "x" * 30 + "\0", 30),
            (
                "name of queue_pause must not hold the character U+0000, which PostgreSQL cannot store, "
                f"got {'x' * 20 + chr(0)!r} at 30; leave it out"
            ),
            {"operation": "queue_pause", "subject": "name", "sqlstate": "22021", "retryable": False},
        ),
        (
            InvalidWhere("state = @s", "operator does not exist: river_job_state = text", "42883"),
            (
                "where must be a condition that PostgreSQL takes, got operator does not exist: river_job_state = text "
                "in 'state = @s'; a text is compared with texts, as in state::text = @state"
            ),
            {"sql": "state = @s", "sqlstate": "42883"},
        ),
        (
            InvalidWhere("1 / 0 = 1", "division by zero", "22012"),
            "where must be a condition that PostgreSQL takes, got division by zero in '1 / 0 = 1'",
            {"reason": "division by zero"},
        ),
        (
            UnknownKind("sort", ["resize", "email"]),
            "no worker is registered for kind 'sort'; known kinds: 'email', 'resize'",
            {"kind": "sort", "known_kinds": ("email", "resize")},
        ),
        (
            UnknownKind("sort", []),
            "no worker is registered for kind 'sort'; known kinds: none",
            {"known_kinds": ()},
        ),
        (
            SchemaError("public", expected=8, found=6),
            "schema 'public' is at migration 6 of line 'main', this release needs 8; run: millhand migrate up",
            {"schema": "public", "expected": 8, "found": 6, "line": "main"},
        ),
        (
            SchemaError("public", expected=8, found=None),
            (
                "Millhand's tables are missing in schema 'public' (this release needs version 8 of line main); "
                "run: millhand migrate up"
            ),
            {"schema": "public", "expected": 8, "found": None, "line": "main"},
        ),
        (
            SchemaError("", expected=1, found=None, line="millhand"),
            (
                "schema 'of the search path' has no migrations of line 'millhand', this release needs 1; "
                "run: millhand migrate up"
            ),
            {"schema": "", "found": None, "line": "millhand"},
        ),
        (
            SchemaError("jobs", expected=8, found=9, missing=[6, 8]),
            (
                "schema 'jobs' lacks migration 6, 8 of line 'main', this release needs 8; "
                "run: millhand migrate up --schema jobs"
            ),
            {"schema": "jobs", "expected": 8, "found": 9, "missing": (6, 8)},
        ),
        (
            OperationTimeout("job_get_available", 2.5),
            "job_get_available must answer within 2.5 s, got no answer",
            {"operation": "job_get_available", "seconds": 2.5},
        ),
        (
            DriverError("queue_get", "permission denied", sqlstate="42501", constraint="c"),
            "queue_get must succeed, got permission denied",
            {"operation": "queue_get", "retryable": False, "sqlstate": "42501", "constraint": "c"},
        ),
        (
            ConnectionLost("queue_get", "connection reset"),
            "queue_get must succeed, got connection reset",
            {"retryable": True, "sqlstate": None},
        ),
        (
            PoolClosed("queue_get", "pool closed"),
            "queue_get must succeed, got pool closed",
            {"retryable": False},
        ),
        (JobTimeout(60.0), "attempt must end within 60 s, got its timeout", {"seconds": 60.0}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_have_a_message_and_attributes(
    error: MillhandError, message: str, attributes: dict[str, Any]
) -> None:
    """Everything in a message is an attribute, after pickling too, and all errors have one base class."""
    sent = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert isinstance(error, MillhandError)
    assert str(error) == message
    assert {name: getattr(error, name) for name in attributes} == attributes
    assert (type(sent), str(sent), vars(sent)) == (type(error), message, vars(error))


@pytest.mark.parametrize(
    ("signal", "text"),
    [
        (JobCancel("no such user"), "no such user"),
        (JobCancel(ValueError("why")), "why"),
        (JobCancel(), ""),
        (JobSnooze(timedelta(seconds=90)), "snoozed for 90 s"),
        (JobSnooze(timedelta(seconds=90), hold_partition=True), "snoozed for 90 s"),
    ],
)
def test_signals_are_no_errors(signal: JobSignal, text: str) -> None:
    """A signal is no MillhandError, and can be pickled."""
    sent = pickle.loads(pickle.dumps(signal))  # noqa: S301 - our own

    assert str(signal) == text
    assert (type(sent), str(sent), repr(vars(sent))) == (type(signal), text, repr(vars(signal)))
    assert not isinstance(signal, MillhandError)


def test_snooze_holds_a_partition_only_if_asked() -> None:
    """By default, other jobs of the partition may start."""
    assert not JobSnooze(timedelta(0)).hold_partition
    assert JobSnooze(timedelta(0), hold_partition=True).hold_partition


def test_snooze_rejects_a_negative_delay() -> None:
    """Zero is a valid delay."""
    assert JobSnooze(timedelta(0)).delay == timedelta(0)
    with pytest.raises(ValueError) as refusal:
        JobSnooze(timedelta(seconds=-1))

    assert (
        str(refusal.value)
        == "snooze delay must not be negative, got datetime.timedelta(days=-1, seconds=86399)"
    )
