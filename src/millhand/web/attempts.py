"""The attempts of a job, newest first, as far as its row records them."""

from __future__ import annotations

import enum
from datetime import datetime

import msgspec

from millhand.core.job import AttemptError, JobState
from millhand.engine.store.job_details import JobDetails
from millhand.engine.store.job_row import GO_ZERO_TIME
from millhand.web.trace import TraceLines, split_trace

# What the rescuers of Millhand and River write. An attempt whose client died left no error of its own.
_RESCUED = ("Job rescued by ", "Stuck job rescued by ")


class AttemptOutcome(enum.StrEnum):
    """How an attempt ended."""

    CANCELLED = "cancelled"
    FAILED = "failed"
    RESCUED = "rescued"  # its client died or lost it
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    UNKNOWN = "unknown"  # it left a log and no error, as after a snooze or an interruption


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """
    One attempt.

    `started_at` of a rescued attempt is the time of the rescue. `ended_at` and `client_id` are None where the row does not
    record them.
    """

    number: int
    outcome: AttemptOutcome
    started_at: datetime | None = None
    ended_at: datetime | None = None
    client_id: str | None = None
    error: str | None = None
    trace: tuple[TraceLines, ...] = ()
    log: str | None = None


def attempts_of(job: JobDetails) -> tuple[Attempt, ...]:
    """Return the attempts of a job, newest first."""
    attempts = {
        attempt.number: attempt for attempt in reversed([_failed(job, error) for error in job.errors])
    }
    last = _last(job)
    if last is not None:
        attempts[last.number] = last
    for number in job.logs.keys() - attempts.keys():
        attempts[number] = Attempt(
            number=number,
            outcome=AttemptOutcome.UNKNOWN,
            client_id=_client_of(job, number),
            log=job.logs[number],
        )
    return tuple(attempts[number] for number in sorted(attempts, reverse=True))


def _failed(job: JobDetails, error: AttemptError) -> Attempt:
    is_last = error.attempt == job.attempt
    is_rescued = error.error.startswith(_RESCUED)
    return Attempt(
        number=error.attempt,
        outcome=AttemptOutcome.RESCUED if is_rescued else AttemptOutcome.FAILED,
        started_at=None if error.at == GO_ZERO_TIME else error.at,
        ended_at=_end(job, error.at) if is_last and not is_rescued else None,
        client_id=_client_of(job, error.attempt),
        error=error.error,
        trace=split_trace(error.trace),
        log=job.logs.get(error.attempt),
    )


def _end(job: JobDetails, started_at: datetime) -> datetime | None:
    """Return the end of the last attempt, unless another program wrote an end that lies before its start."""
    return job.finalized_at if job.finalized_at is not None and job.finalized_at >= started_at else None


def _last(job: JobDetails) -> Attempt | None:
    """Return the last attempt if it has no error: it runs or succeeded, or was cancelled before it ended."""
    outcomes = {
        JobState.COMPLETED: AttemptOutcome.SUCCEEDED,
        JobState.RUNNING: AttemptOutcome.RUNNING,
        JobState.CANCELLED: AttemptOutcome.CANCELLED,
    }
    has_failed = any(error.attempt == job.attempt for error in job.errors)
    if job.state not in outcomes or not job.attempt or (has_failed and job.state is JobState.CANCELLED):
        return None
    return Attempt(
        number=job.attempt,
        outcome=outcomes[job.state],
        started_at=job.attempted_at,
        ended_at=job.finalized_at,
        client_id=_client_of(job, job.attempt),
        log=job.logs.get(job.attempt),
    )


def _client_of(job: JobDetails, number: int) -> str | None:
    """
    Return the client of an attempt.

    The last fetch is that of the last attempt. Each earlier one is known only if each fetch was one attempt: a snooze
    takes the attempt back.
    """
    if number == job.attempt and job.attempted_by:
        return job.attempted_by[0]
    back = job.attempt - number
    if job.num_fetches == job.attempt and 0 <= back < len(job.attempted_by):
        return job.attempted_by[back]
    return None
