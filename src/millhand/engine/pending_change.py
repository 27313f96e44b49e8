"""Changes that the completer has yet to write, and the events and rows that come of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter

import msgspec

from millhand.core.event import EventKind, JobEvent, JobStatistics
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.log.logger import logger_of
from millhand.core.transition import StateChange
from millhand.engine.attempt import Attempt, format_ids

logger = logger_of(__name__)

# In place of None, in rows that were not fetched by a client.
ZERO = datetime.min.replace(tzinfo=UTC)
_FINALIZED_AT = attrgetter("change.finalized_at")
_ID = attrgetter("change.id")


class Pending(msgspec.Struct, frozen=True, gc=False):
    """A change to be written, and what its event and its log lines need."""

    change: StateChange
    attempt: Attempt
    handed_over_at: float
    is_plain: bool  # completed, without metadata

    def fetched_at(self) -> datetime:
        """Return the instant of the fetch of the attempt, by which it is identified."""
        return self.change.attempted_at or ZERO

    def fields(self) -> dict[str, object]:
        """Return what a line of the log says of the change."""
        row, state = self.attempt.row, self.change.state.value
        return {
            "job_id": row.id,
            "kind": row.kind,
            "queue": row.queue,
            "attempt": row.attempt,
            "state": state,
        }

    def completed_row(self) -> JobRow:
        """Return the job's row as a plain success leaves it."""
        return msgspec.structs.replace(
            self.attempt.row, state=JobState.COMPLETED, finalized_at=self.change.finalized_at
        )

    def event(self, kind: EventKind, row: JobRow, at: float) -> JobEvent:
        """Return the event of a change that was written at the monotonic time `at`."""
        attempt = self.attempt
        statistics = JobStatistics(
            complete_seconds=at - self.handed_over_at,
            queue_wait_seconds=attempt.queue_wait_seconds,
            run_seconds=attempt.run_seconds,
        )
        return JobEvent(kind=kind, queue=row.queue, job=row, statistics=statistics)


class Backlog(dict[JobId, Pending]):
    """Changes in the order of their hand-over, one for each job: of two attempts, that of the one fetched later."""

    def add(self, one: Pending) -> None:
        other = self.setdefault(one.change.id, one)
        if other is not one:
            older, newer = sorted((other, one), key=Pending.fetched_at)
            self[one.change.id] = newer
            log_too_late(older)

    def take(self, size: int) -> list[Pending]:
        """Remove and return the first changes, at most `size`."""
        if len(self) > size:
            return [self.pop(id) for id in list(itertools.islice(self, size))]
        batch = list(self.values())
        self.clear()
        return batch

    def put_first(self, batch: Iterable[Pending]) -> None:
        """Add changes before all others."""
        newer = list(self.values())
        self.clear()
        self.update((one.change.id, one) for one in batch)
        for one in newer:
            self.add(one)


class EndedJobs(msgspec.Struct, frozen=True):
    """Jobs that succeeded, the instant of the fetch of each, and when it ended."""

    ids: Sequence[JobId]
    attempted_ats: Sequence[datetime]
    finalized_ats: Sequence[datetime]


def ended_jobs(batch: Sequence[Pending]) -> EndedJobs:
    """Return the jobs of plain successes."""
    return EndedJobs(
        ids=[*map(_ID, batch)],
        attempted_ats=[one.change.attempted_at or ZERO for one in batch],
        finalized_ats=[*map(_FINALIZED_AT, batch)],  # all have one
    )


def log_too_late(one: Pending) -> None:
    logger.warning("outcome came too late", extra=one.fields())


def format_outcomes(changes: Iterable[StateChange]) -> str:
    """Return one line with the job ids of each state, up to `NUM_IDS_MAX` of each."""
    by_state: dict[JobState, list[JobId]] = {}
    for change in changes:
        by_state.setdefault(change.state, []).append(change.id)
    return "; ".join(f"{state.value}: {format_ids(ids)}" for state, ids in sorted(by_state.items()))
