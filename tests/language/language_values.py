"""What the tests of the language share: River's golden data, and rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from millhand.job import AttemptError, JobRow, JobState

GOLDEN = Path(__file__).parents[1] / "fixtures" / "river"
NOW = datetime(2024, 5, 1, 10, 34, 56, 789_000, tzinfo=UTC)


def golden(name: str) -> Any:
    """Return what was recorded from River under a name."""
    return json.loads((GOLDEN / f"{name}.json").read_text())["data"]


def row(**columns: Any) -> JobRow:
    """Return a row of a running job in its first attempt, but for what is given."""
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


def errors(number: int) -> tuple[AttemptError, ...]:
    """Return the errors of so many failed attempts."""
    return tuple(AttemptError(NOW, attempt, "failed") for attempt in range(1, number + 1))
