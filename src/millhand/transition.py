"""
The one place where it is decided what becomes of a job that was worked.

Rule 1: an attempt ends in one of five outcomes, and each outcome gives one state change. The table is `settle`.
Rule 2: whatever the outcome, a job whose cancellation was asked for meanwhile ends cancelled; the statement that writes
        the change sees to that, for only the database knows (`job_set_state_if_running_many`).
Rule 3: this file knows no clock, no database and no event loop: instants come in, a `StateChange` goes out.

    running ─┬─ Completed ──────────────────────▶ completed
             ├─ Cancelled ──────────────────────▶ cancelled
             ├─ Failed ──┬─ last attempt ───────▶ discarded
             │           ├─ retry soon ─────────▶ available
             │           └─ retry later ────────▶ retryable
             ├─ Snoozed ─┬─ soon ───────────────▶ available     attempt given back
             │           └─ later ──────────────▶ scheduled     attempt given back
             └─ Interrupted ────────────────────▶ available     attempt given back

Source: River v0.51.2, internal/jobexecutor/job_executor.go `reportResult, reportError`; riverdriver `JobSetState*`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from millhand.event import EventKind
from millhand.job import CANCEL_MARK, AttemptError, JobId, JobRow, JobState, Json
from millhand.retry import later

# The scheduler passes every five seconds. A job due sooner would wait for it, so it is made available at once, with its
# instant in the future; the fetch holds it until then.
SOON = timedelta(seconds=5)
ZERO_TIME = "0001-01-01T00:00:00Z"  # Go's


class Completed(msgspec.Struct, frozen=True):
    """The worker returned."""


class Failed(msgspec.Struct, frozen=True):
    """
    The worker raised, timed out, or could not be called.

    `retry_at` is when the next attempt is due if there is one; `trace` is the stack, kept in the row.
    """

    error: str
    retry_at: datetime
    trace: str = ""


class Cancelled(msgspec.Struct, frozen=True):
    """The worker or the error handler cancelled the job, or somebody did while it ran."""

    error: str
    trace: str = ""


class Snoozed(msgspec.Struct, frozen=True):
    """The worker asked to be called again after `delay`."""

    delay: timedelta


class Interrupted(msgspec.Struct, frozen=True):
    """The client stopped and the attempt gave way."""


Outcome = Completed | Failed | Cancelled | Snoozed | Interrupted


class StateChange(msgspec.Struct, frozen=True, gc=False):
    """
    What is to be written for a job that is running; None leaves a column as it is.

    `metadata` is merged at the top level. `event_kind` is what the outcome alone would be told as; what is told in the
    end follows the row as written, see `event_kind_of`. `attempted_at` and `attempted_by` name the attempt that it came
    of: the instant of its fetch, and its client. The change counts for no other attempt.
    """

    id: JobId
    state: JobState
    event_kind: EventKind
    attempt: int | None = None
    error: AttemptError | None = None
    finalized_at: datetime | None = None
    metadata: dict[str, Json] | None = None
    scheduled_at: datetime | None = None
    attempted_at: datetime | None = None
    attempted_by: str | None = None


def settle(
    job: JobRow,
    outcome: Outcome,
    *,
    now: datetime,
    started_at: datetime,
    metadata_updates: dict[str, Json] | None = None,
) -> StateChange:
    """
    Return what becomes of a running `job`, given how its attempt ended.

    Units: `now` is when it ended, `started_at` when it began (the instant kept with an error); both aware.
    Source: River v0.51.2; the contract's table of outcomes in docs/reference/river.md.
    """
    at, by = job.attempted_at, holder_of(job)
    match outcome:
        case Completed():
            return StateChange(
                job.id,
                JobState.COMPLETED,
                EventKind.JOB_COMPLETED,
                None,
                None,
                now,
                metadata_updates,
                None,
                at,
                by,
            )
        case Cancelled(error, trace):
            kept = AttemptError(started_at, job.attempt, error, trace)
            return StateChange(
                job.id,
                JobState.CANCELLED,
                EventKind.JOB_CANCELLED,
                None,
                kept,
                now,
                metadata_updates,
                None,
                at,
                by,
            )
        case Failed(error, retry_at, trace):
            kept = AttemptError(started_at, job.attempt, error, trace)
            return _failed(job, kept, retry_at, now, metadata_updates)
        case Snoozed(delay):
            due = later(now, delay)
            state = JobState.AVAILABLE if delay <= SOON else JobState.SCHEDULED
            metadata = {**(metadata_updates or {}), "snoozes": num_snoozes(job.metadata) + 1}
            return StateChange(
                job.id, state, EventKind.JOB_SNOOZED, job.attempt - 1, None, None, metadata, due, at, by
            )
        case Interrupted():
            return StateChange(
                job.id,
                JobState.AVAILABLE,
                EventKind.JOB_INTERRUPTED,
                max(job.attempt - 1, 0),
                None,
                None,
                metadata_updates,
                now,
                at,
                by,
            )
        case _:
            assert_never(outcome)


def _failed(
    job: JobRow, kept: AttemptError, retry_at: datetime, now: datetime, metadata: dict[str, Json] | None
) -> StateChange:
    at, by = job.attempted_at, holder_of(job)
    if job.attempt >= job.max_attempts:
        return StateChange(
            job.id, JobState.DISCARDED, EventKind.JOB_FAILED, None, kept, now, metadata, None, at, by
        )
    state = JobState.AVAILABLE if retry_at - now <= SOON else JobState.RETRYABLE
    return StateChange(job.id, state, EventKind.JOB_FAILED, None, kept, None, metadata, retry_at, at, by)


def holder_of(job: JobRow) -> str | None:
    """Return the client that fetched a job last; while it runs, that holds it."""
    return job.attempted_by[-1] if job.attempted_by else None


def num_snoozes(metadata: dict[str, Json]) -> int:
    """Return how often a job was snoozed; a value of a wrong type counts as what can be read of it, else 0."""
    value = metadata.get("snoozes", 0)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        return int(value)
    except (ValueError, OverflowError):  # a text that is no number, or a number without end
        return 0


def event_kind_of(state: JobState, change: StateChange) -> EventKind | None:
    """
    Return what to tell of a row that was written as `state`, or None if this change did not settle it.

    The written row decides; the outcome only where the state is ambiguous.
    Source: River v0.51.2, internal/jobcompleter/job_completer.go `completerJobUpdatedFromStateAndReason`.
    """
    match state:
        case JobState.COMPLETED:
            return EventKind.JOB_COMPLETED
        case JobState.CANCELLED:
            return EventKind.JOB_CANCELLED
        case JobState.DISCARDED | JobState.RETRYABLE:
            return EventKind.JOB_FAILED
        case JobState.SCHEDULED:
            return EventKind.JOB_SNOOZED
        case JobState.AVAILABLE:
            ended = change.event_kind in (EventKind.JOB_COMPLETED, EventKind.JOB_CANCELLED)
            return EventKind.JOB_FAILED if ended else change.event_kind
        case JobState.PENDING | JobState.RUNNING:
            return None
        case _:
            assert_never(state)


def is_cancel_requested(job: JobRow) -> bool:
    """Whatever stands there, as for completions, but for what Go's clients write for "not cancelled"."""
    return job.metadata.get(CANCEL_MARK) not in (None, ZERO_TIME)


def is_of_attempt(row: JobRow, change: StateChange) -> bool:
    """Return whether the attempt of which `change` came is the last one that `row` tells of."""
    return (row.attempted_at, holder_of(row)) == (change.attempted_at, change.attempted_by)


def is_too_late(row: JobRow | None, change: StateChange) -> bool:
    """
    Return whether `change` changed no state, given the row as the database has it after the write.

    Another attempt has the job by then, or somebody has given it back, or has settled it otherwise. A job that its worker
    completed in a transaction of his own was settled by this attempt all the same.
    """
    if row is None or not is_of_attempt(row, change):
        return True
    if row.state.is_finalized:
        is_forced = row.state is JobState.CANCELLED and change.finalized_at is None
        return row.state is not change.state and not is_forced
    return (row.state, row.scheduled_at) != (change.state, change.scheduled_at)
