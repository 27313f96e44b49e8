"""
The state transition of a job after an attempt.

Rule 1: an attempt ends in one of five outcomes, and each outcome gives one state change. The table is `settle`.
Rule 2: a job whose cancellation was requested meanwhile ends cancelled instead of waiting again. Only the database knows of
        the request, so the statement that writes the change decides that (`job_set_state_if_running_many`).
Rule 3: this module reads no clock and no database: callers pass instants, and get a `StateChange`.

    running ─┬─ Completed ──────────────────────▶ completed
             ├─ Cancelled ──────────────────────▶ cancelled
             ├─ Failed ──┬─ last attempt ───────▶ discarded
             │           ├─ retry soon ─────────▶ available
             │           └─ retry later ────────▶ retryable
             ├─ Snoozed ─┬─ soon ───────────────▶ available     attempt not counted
             │           └─ later ──────────────▶ scheduled     attempt not counted
             └─ Interrupted ────────────────────▶ available     attempt not counted

Source: River v0.51.2, internal/jobexecutor/job_executor.go `reportResult, reportError`; riverdriver `JobSetState*`.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, assert_never

import msgspec

from millhand.core.event import EventKind
from millhand.core.job import CANCEL_REQUESTED_KEY, AttemptError, JobId, JobRow, JobState, Json
from millhand.core.retry import add_delay

# A job that is due sooner would wait for the scheduler's next run. Instead it becomes available at once, and no fetch
# returns it before its `scheduled_at`.
SCHEDULER_INTERVAL = timedelta(seconds=5)
GO_ZERO_TIME = "0001-01-01T00:00:00Z"

_DIGITS = re.compile(r"-?[0-9]+")
# River counts in 64 bits, and so does the encoder of metadata. No job is snoozed so often.
_COUNT_END = 2**63 - 1


class Completed(msgspec.Struct, frozen=True):
    """The worker returned."""


class Failed(msgspec.Struct, frozen=True):
    """The worker raised, timed out, or could not be called. The next attempt, if there is one, is due at `retry_at`."""

    error: str
    retry_at: datetime
    trace: str = ""


class Cancelled(msgspec.Struct, frozen=True):
    """The worker or the error handler cancelled the job, or a cancel command arrived while the worker ran."""

    error: str
    trace: str = ""


class Snoozed(msgspec.Struct, frozen=True):
    """The worker asked to be called again after `delay`, and perhaps to hold the job's partition until then."""

    delay: timedelta
    hold_partition: bool = False


class Interrupted(msgspec.Struct, frozen=True):
    """The client stopped and cancelled the attempt."""


Outcome = Completed | Failed | Cancelled | Snoozed | Interrupted


class StateChange(msgspec.Struct, frozen=True, gc=False):
    """
    What to write for a running job; None leaves a column as it is.

    Attributes:
        event_kind: The event of the outcome. The written row may require another one: see `event_kind_of`.
        error: To append to the row's errors.
        metadata: To merge into the row's metadata, at the top level.
        attempted_at: When the attempt was fetched. The change applies to this attempt only.
        holds_partition: Whether no job of the same partition of a limit starts before `scheduled_at`.
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
    holds_partition: bool = False


def settle(
    job: JobRow,
    outcome: Outcome,
    *,
    now: datetime,
    started_at: datetime,
    metadata_updates: dict[str, Json] | None = None,
) -> StateChange:
    """
    Return the state change of a running `job` whose attempt ended with `outcome`.

    `now` is the instant at which the attempt ended. `started_at` is kept with an error. Both are aware.
    Source: River v0.51.2; the table of outcomes in docs/reference/river.md.
    """
    match outcome:
        case Completed():
            # Nearly every attempt completes, so this change is built the fastest way: by position.
            at, by = job.attempted_at, last_attempted_by(job)
            state, event = JobState.COMPLETED, EventKind.JOB_COMPLETED
            return StateChange(job.id, state, event, None, None, now, metadata_updates, None, at, by)
        case Cancelled(error, trace):
            kept = AttemptError(started_at, job.attempt, error, trace)
            state, event = JobState.CANCELLED, EventKind.JOB_CANCELLED
            return _change(job, state, event, metadata_updates, error=kept, finalized_at=now)
        case Failed(error, retry_at, trace):
            kept, event = AttemptError(started_at, job.attempt, error, trace), EventKind.JOB_FAILED
            if job.attempt >= job.max_attempts:
                state = JobState.DISCARDED
                return _change(job, state, event, metadata_updates, error=kept, finalized_at=now)
            state = JobState.AVAILABLE if retry_at - now <= SCHEDULER_INTERVAL else JobState.RETRYABLE
            return _change(job, state, event, metadata_updates, error=kept, scheduled_at=retry_at)
        case Snoozed(delay, hold_partition):
            attempt, due_at, event = job.attempt - 1, add_delay(now, delay), EventKind.JOB_SNOOZED
            state = JobState.AVAILABLE if delay <= SCHEDULER_INTERVAL else JobState.SCHEDULED
            metadata = {**(metadata_updates or {}), "snoozes": num_snoozes(job.metadata) + 1}
            return _change(
                job,
                state,
                event,
                metadata,
                attempt=attempt,
                scheduled_at=due_at,
                holds_partition=hold_partition,
            )
        case Interrupted():
            attempt = max(job.attempt - 1, 0)
            state, event = JobState.AVAILABLE, EventKind.JOB_INTERRUPTED
            return _change(job, state, event, metadata_updates, attempt=attempt, scheduled_at=now)
        case _:
            assert_never(outcome)


def _change(
    job: JobRow,
    state: JobState,
    event: EventKind,
    metadata: dict[str, Json] | None,
    **columns: Any,  # noqa: ANN401 - further fields of StateChange
) -> StateChange:
    at, by = job.attempted_at, last_attempted_by(job)
    return StateChange(job.id, state, event, metadata=metadata, attempted_at=at, attempted_by=by, **columns)


def last_attempted_by(job: JobRow) -> str | None:
    """Return the client that fetched a job last. While the job runs, that client works it."""
    return job.attempted_by[-1] if job.attempted_by else None


def num_snoozes(metadata: dict[str, Json]) -> int:
    """
    Return how often a job was snoozed: the number that River reads, and 0 for a value that is none.

    River counts true as 1, cuts fractions off, and reads a text only if it is digits, perhaps after a minus.
    Source: River v0.51.2; gjson v1.20.0 `Result.Int`.
    """
    value = metadata.get("snoozes", 0)
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        return 0
    if not isinstance(value, int | float | str):
        return 0
    try:
        number = int(value)
    except (ValueError, OverflowError):  # longer than Python reads, infinite, or not a number
        return 0
    return number if abs(number) < _COUNT_END else 0


def event_kind_of(state: JobState, change: StateChange) -> EventKind | None:
    """
    Return the event of a row that was written as `state`, or None if `change` did not write it.

    The written state decides; for an available job, the outcome decides.
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
            is_final = change.event_kind in (EventKind.JOB_COMPLETED, EventKind.JOB_CANCELLED)
            return EventKind.JOB_FAILED if is_final else change.event_kind
        case JobState.PENDING | JobState.RUNNING:
            return None
        case _:
            assert_never(state)


def is_cancel_requested(job: JobRow) -> bool:
    """Return whether a job's cancellation was requested: the key has a value, other than Go's zero time."""
    return job.metadata.get(CANCEL_REQUESTED_KEY) not in (None, GO_ZERO_TIME)


def is_same_attempt(row: JobRow, change: StateChange) -> bool:
    """Return whether the last attempt of `row` is the one that `change` belongs to."""
    return (row.attempted_at, last_attempted_by(row)) == (change.attempted_at, change.attempted_by)


def is_superseded(row: JobRow | None, change: StateChange) -> bool:
    """
    Return whether `change` had no effect, given the row after the write.

    The job was then deleted, rescued, fetched again, or finalized by another client. A change is not superseded if its own
    worker completed the job in a transaction.
    """
    if row is None or not is_same_attempt(row, change):
        return True
    if row.state.is_finalized:
        by_request = row.state is JobState.CANCELLED and change.finalized_at is None  # rule 2
        return row.state is not change.state and not by_request
    return (row.state, row.scheduled_at) != (change.state, change.scheduled_at)
