"""Rows and errors for the tests in tests/core."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from millhand.core.insert_opts import InsertOpts, InsertParams, insert_params_many
from millhand.core.job import AttemptError, JobRow, JobState

NOW = datetime(2024, 5, 1, 10, 34, 56, 789_000, tzinfo=UTC)


def insert_params(args: object, opts: InsertOpts | None = None, **how: Any) -> InsertParams:
    """Return the params of one insert; `how` is that of `insert_params_many`."""
    return insert_params_many([(args, opts)], **how)[0]


def row(**columns: Any) -> JobRow:
    """Return the row of a running job in its first attempt, with some columns replaced."""
    defaults: dict[str, Any] = {
        "id": 1,
        "state": JobState.RUNNING,
        "attempt": 1,
        "max_attempts": 25,
        "attempted_at": NOW,
        "created_at": NOW,
        "finalized_at": None,
        "scheduled_at": NOW,
        "priority": 1,
        "encoded_args": "{}",
        "attempted_by": ("client",),
        "errors": (),
        "kind": "kind",
        "metadata": {},
        "queue": "default",
        "tags": (),
        "unique_key": None,
        "unique_states": None,
    }
    return JobRow(**(defaults | columns))


def errors(num: int) -> tuple[AttemptError, ...]:
    """Return the errors of `num` failed attempts."""
    return tuple(AttemptError(NOW, attempt, "failed") for attempt in range(1, num + 1))
