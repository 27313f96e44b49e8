"""Job, queue and event values."""

from __future__ import annotations

import pytest
from language_values import NOW, errors, row

from millhand.core.event import Event, EventKind
from millhand.core.job import JobRow, JobState
from millhand.core.queue import QueueRow


def test_job_states_are_in_the_databases_order() -> None:
    """The order is that of River's enum; the bits of unique jobs depend on it."""
    assert [state.value for state in JobState] == [
        "available",
        "cancelled",
        "completed",
        "discarded",
        "pending",
        "retryable",
        "running",
        "scheduled",
    ]
    assert [state for state in JobState if state.is_finalized] == ["cancelled", "completed", "discarded"]


def test_job_row_decodes_its_args_and_output() -> None:
    """A row can be read without a worker."""
    one = row(encoded_args='{"n": [1, 2.5]}', metadata={"output": "done"}, errors=errors(1))

    assert (one.args, one.output, row().output) == ({"n": [1, 2.5]}, "done", None)


def test_queue_row_reports_whether_it_is_paused() -> None:
    """A queue with `paused_at` is paused."""
    running = QueueRow("q", NOW, {}, None, NOW)
    paused = QueueRow("q", NOW, {}, NOW, NOW)

    assert (running.is_paused, paused.is_paused) == (False, True)


def test_event_is_a_value() -> None:
    """A subscriber cannot change an event."""
    event = Event(kind=EventKind.QUEUE_PAUSED, queue="q")

    with pytest.raises(AttributeError):
        event.queue = "other"  # type: ignore[misc]


def test_job_row_is_a_value() -> None:
    """Two rows with the same columns are equal, and neither can be changed."""
    one: JobRow = row()

    assert one == row()
    with pytest.raises(AttributeError):
        one.attempt = 2  # type: ignore[misc]
