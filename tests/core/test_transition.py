from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from language_values import NOW, row

from factory import golden
from millhand.core.event import EventKind
from millhand.core.job import AttemptError, JobState
from millhand.core.transition import (
    Cancelled,
    Completed,
    Failed,
    Interrupted,
    Outcome,
    Snoozed,
    StateChange,
    event_kind_of,
    is_superseded,
    num_snoozes,
    settle,
)
from state_diagram import drawn, state_svg
from state_machine_page import DRAWING, PAGE, page, transitions

SECOND = timedelta(seconds=1)
STARTED_AT = NOW - SECOND
FIVE = timedelta(seconds=5)
TICK = timedelta(microseconds=1)
UPDATES = {"output": 1}

ERROR = AttemptError(STARTED_AT, 3, "why", "stack")
DONE = {"finalized_at": NOW, "metadata": UPDATES}


@pytest.mark.parametrize(
    ("outcome", "columns", "change"),
    [
        (Completed(), {}, {"state": JobState.COMPLETED, "event_kind": EventKind.JOB_COMPLETED, **DONE}),
        (
            Cancelled("why", "stack"),
            {},
            {"state": JobState.CANCELLED, "event_kind": EventKind.JOB_CANCELLED, "error": ERROR, **DONE},
        ),
        (
            Failed("why", NOW + FIVE, "stack"),
            {"max_attempts": 3},
            {"state": JobState.DISCARDED, "event_kind": EventKind.JOB_FAILED, "error": ERROR, **DONE},
        ),
        (
            Failed("why", NOW + FIVE, "stack"),
            {},
            {
                "state": JobState.AVAILABLE,
                "event_kind": EventKind.JOB_FAILED,
                "error": ERROR,
                "metadata": UPDATES,
                "scheduled_at": NOW + FIVE,
            },
        ),
        (
            Failed("why", NOW + FIVE + TICK, "stack"),
            {},
            {
                "state": JobState.RETRYABLE,
                "event_kind": EventKind.JOB_FAILED,
                "error": ERROR,
                "metadata": UPDATES,
                "scheduled_at": NOW + FIVE + TICK,
            },
        ),
        (
            Snoozed(FIVE),
            {},
            {
                "state": JobState.AVAILABLE,
                "event_kind": EventKind.JOB_SNOOZED,
                "attempt": 2,
                "metadata": {"output": 1, "snoozes": 1},
                "scheduled_at": NOW + FIVE,
            },
        ),
        (
            Snoozed(FIVE + TICK),
            {"metadata": {"snoozes": 4}},
            {
                "state": JobState.SCHEDULED,
                "event_kind": EventKind.JOB_SNOOZED,
                "attempt": 2,
                "metadata": {"output": 1, "snoozes": 5},
                "scheduled_at": NOW + FIVE + TICK,
            },
        ),
        (
            Interrupted(),
            {},
            {
                "state": JobState.AVAILABLE,
                "event_kind": EventKind.JOB_INTERRUPTED,
                "attempt": 2,
                "metadata": UPDATES,
                "scheduled_at": NOW,
            },
        ),
        (
            Interrupted(),
            {"attempt": 0},
            {
                "state": JobState.AVAILABLE,
                "event_kind": EventKind.JOB_INTERRUPTED,
                "attempt": 0,
                "metadata": UPDATES,
                "scheduled_at": NOW,
            },
        ),
    ],
)
def test_settle_keeps_rivers_table(outcome: Outcome, columns: dict[str, Any], change: dict[str, Any]) -> None:
    """Each outcome gives exactly one change, and columns that it does not name stay as they are."""
    job = row(**({"attempt": 3} | columns))

    actual = settle(job, outcome, now=NOW, started_at=STARTED_AT, metadata_updates=UPDATES)

    assert actual == StateChange(job.id, attempted_at=NOW, attempted_by="client", **change)


# How River's worker ended the first attempt in each of these recorded lives.
LIVES: dict[str, Outcome] = {
    "completed": Completed(),
    "completed with output": Completed(),
    "errored, wrapped error": Failed("", NOW + SECOND),
    "errored, worker's own retry time": Failed("", NOW + timedelta(minutes=10)),
    "timed out": Failed("", NOW + SECOND),
    "discarded": Failed("", NOW + SECOND),
    "panicked": Failed("", NOW + SECOND, "stack"),
    "panicked and discarded": Failed("", NOW + SECOND, "stack"),
    "snoozed 0 s to 5 s": Snoozed(timedelta(seconds=3)),
    "snoozed over 5 s, twice": Snoozed(timedelta(hours=1)),
    "snoozed on the only attempt": Snoozed(timedelta(hours=1)),
    "cancelled by the worker": Cancelled(""),
    "unknown kind": Failed("", NOW + SECOND),
    "stopped and cancelled: wait": Interrupted(),
    "stopped and cancelled: wait, complete": Completed(),
    "stopped and cancelled: wait, fail": Failed("", NOW + SECOND),
    "stopped and cancelled: wait, snooze 1 h": Snoozed(timedelta(hours=1)),
    "stopped and cancelled: wait, cancel": Cancelled(""),
}
RECORDED = {life["scenario"]: life for life in golden("jobs")}


@pytest.mark.parametrize("scenario", LIVES)
def test_settle_ends_an_attempt_as_river_was_seen_to_end_it(scenario: str) -> None:
    """State, attempt, errors and event of a first attempt are those of River's recorded row."""
    life = RECORDED[scenario]
    photo = life["photos"][0]["row"]
    job = row(attempt=1, max_attempts=int(photo["columns"]["max_attempts"]))

    change = settle(job, LIVES[scenario], now=NOW, started_at=STARTED_AT)

    attempt = job.attempt if change.attempt is None else change.attempt
    assert (change.state, attempt, change.error is not None, change.finalized_at is not None) == (
        photo["columns"]["state"],
        int(photo["columns"]["attempt"]),
        bool(photo["errors"]),
        photo["columns"]["finalized_at"] is not None,
    )
    assert change.event_kind == life["events"][0]["kind"]


delays = st.timedeltas(timedelta(0), timedelta(days=30))
outcomes = st.one_of(
    st.just(Completed()),
    st.just(Interrupted()),
    st.builds(Cancelled, st.text(), st.text()),
    st.builds(Snoozed, delays),
    st.builds(lambda error, delay, trace: Failed(error, NOW + delay, trace), st.text(), delays, st.text()),
)
jobs = st.builds(
    lambda attempt, max_attempts: row(attempt=attempt, max_attempts=max_attempts),
    st.integers(1, 99),
    st.integers(1, 99),
)


@given(jobs, outcomes)
def test_settle_gives_rows_that_the_table_accepts(job: Any, outcome: Outcome) -> None:
    """`finalized_at` is set for finalized states only, and all other rows are due at some time."""
    change = settle(job, outcome, now=NOW, started_at=STARTED_AT)

    assert (change.finalized_at is not None) is change.state.is_finalized
    assert (change.scheduled_at is None) is change.state.is_finalized
    assert change.state not in (JobState.RUNNING, JobState.PENDING)
    assert change.attempt is None or change.attempt == job.attempt - 1
    assert change.scheduled_at is None or change.scheduled_at >= NOW


@pytest.mark.slow
@given(jobs, outcomes)
def test_settle_stores_errors_of_failures_and_cancels(job: Any, outcome: Outcome) -> None:
    """Failures and cancellations add an error; snoozes and interruptions do not count the attempt."""
    change = settle(job, outcome, now=NOW, started_at=STARTED_AT)

    assert (change.error is not None) is isinstance(outcome, Failed | Cancelled)
    assert (change.attempt is not None) is isinstance(outcome, Snoozed | Interrupted)
    assert (change.state is JobState.DISCARDED) is (
        isinstance(outcome, Failed) and job.attempt >= job.max_attempts
    )


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3),
        ("3", 3),
        ("-1", -1),
        (2.9, 2),
        (True, 1),
        (False, 0),
        (" 5", 0),
        ("+5", 0),
        ("1_000", 0),
        (-2.5, -2),
        (None, 0),
        ([], 0),
        ("many", 0),
        ("", 0),
        ("--3", 0),
        ("3.5", 0),
    ],
)
def test_num_snoozes_reads_what_it_can(value: Any, number: int) -> None:
    """A wrong value in the metadata does not prevent a snooze."""
    assert (num_snoozes({"snoozes": value}), num_snoozes({})) == (number, 0)


@pytest.mark.parametrize(
    "number", [float("nan"), float("inf"), "²", "5\n", 1e300, 2**63, "9" * 20, "9" * 5000]
)
def test_num_snoozes_survives_what_only_looks_like_a_number(number: Any) -> None:
    """What is no number of 64 bits counts as 0."""
    assert num_snoozes({"snoozes": number}) == 0


EVENT_KINDS = {
    (JobState.COMPLETED, EventKind.JOB_FAILED): EventKind.JOB_COMPLETED,
    (JobState.CANCELLED, EventKind.JOB_SNOOZED): EventKind.JOB_CANCELLED,
    (JobState.DISCARDED, EventKind.JOB_FAILED): EventKind.JOB_FAILED,
    (JobState.RETRYABLE, EventKind.JOB_FAILED): EventKind.JOB_FAILED,
    (JobState.SCHEDULED, EventKind.JOB_SNOOZED): EventKind.JOB_SNOOZED,
    (JobState.AVAILABLE, EventKind.JOB_FAILED): EventKind.JOB_FAILED,
    (JobState.AVAILABLE, EventKind.JOB_SNOOZED): EventKind.JOB_SNOOZED,
    (JobState.AVAILABLE, EventKind.JOB_INTERRUPTED): EventKind.JOB_INTERRUPTED,
    (JobState.AVAILABLE, EventKind.JOB_COMPLETED): EventKind.JOB_FAILED,
    (JobState.AVAILABLE, EventKind.JOB_CANCELLED): EventKind.JOB_FAILED,
    (JobState.PENDING, EventKind.JOB_COMPLETED): None,
    (JobState.RUNNING, EventKind.JOB_COMPLETED): None,
}


@pytest.mark.parametrize(("state", "reported"), EVENT_KINDS)
def test_event_kind_follows_the_row_as_written(state: JobState, reported: EventKind) -> None:
    """The row decides the event; the outcome decides only where the state is ambiguous."""
    change = StateChange(row().id, state, reported)

    assert event_kind_of(state, change) == EVENT_KINDS[state, reported]


WRITTEN: dict[str, tuple[dict[str, Any], Outcome]] = {
    "completed": ({"state": JobState.COMPLETED, "finalized_at": NOW}, Completed()),
    "completed in a transaction of its own": (
        {"state": JobState.COMPLETED, "finalized_at": STARTED_AT},
        Completed(),
    ),
    "retryable": (
        {"state": JobState.RETRYABLE, "scheduled_at": NOW + 2 * FIVE},
        Failed("why", NOW + 2 * FIVE),
    ),
    "cancelled instead": ({"state": JobState.CANCELLED, "finalized_at": NOW}, Failed("why", NOW + 2 * FIVE)),
    "interrupted": ({"state": JobState.AVAILABLE, "scheduled_at": NOW}, Interrupted()),
}
TOO_LATE: dict[str, tuple[dict[str, Any], Outcome]] = {
    "fetched again": ({"attempted_at": NOW + TICK}, Completed()),
    "completed by another attempt": (
        {"state": JobState.COMPLETED, "finalized_at": NOW, "attempted_at": NOW + TICK}, Completed(),
    ),
    "with another client": ({"attempted_by": ("client", "other")}, Completed()),
    "given back": ({"state": JobState.AVAILABLE}, Completed()),
    "given back for another time": ({"state": JobState.RETRYABLE}, Failed("why", NOW + 2 * FIVE)),
    "discarded": ({"state": JobState.DISCARDED, "finalized_at": NOW}, Completed()),
    "cancelled": ({"state": JobState.CANCELLED, "finalized_at": NOW}, Completed()),
}  # fmt: skip


@pytest.mark.parametrize("name", [*WRITTEN, *TOO_LATE])
def test_change_is_superseded_if_the_row_is_of_another_attempt_or_end(name: str) -> None:
    """A row of another attempt, or with another end, shows that the change had no effect."""
    columns, outcome = (WRITTEN | TOO_LATE)[name]
    change = settle(row(), outcome, now=NOW, started_at=STARTED_AT)

    assert is_superseded(row(**columns), change) is (name in TOO_LATE)
    assert is_superseded(None, change) is True


def test_state_machine_page_is_drawn_from_the_code() -> None:
    """docs/reference/state_machine.md matches the code; `python docs/.writers/state_machine_page.py` writes it."""
    assert PAGE.read_text() == page()
    assert DRAWING.read_text() == state_svg()


def test_state_diagram_has_each_transition() -> None:
    """The drawing has an arrow for each pair of states that a job can go from and to, and no other."""
    assert drawn() == transitions()


def test_settle_does_not_change_its_metadata() -> None:
    """A snooze counts in a copy."""
    updates: dict[str, Any] = {"output": 1}

    settle(row(), Snoozed(SECOND), now=NOW, started_at=STARTED_AT, metadata_updates=updates)

    assert updates == {"output": 1}


def test_settle_rejects_an_unknown_outcome() -> None:
    """A new outcome needs a case in `settle`."""
    with pytest.raises(AssertionError):
        settle(row(), datetime, now=NOW, started_at=STARTED_AT)  # type: ignore[arg-type]
