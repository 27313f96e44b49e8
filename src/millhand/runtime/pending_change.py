"""A state change that the completer has yet to write, and the event and row that come of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from millhand.event import EventKind, JobEvent, JobStatistics
from millhand.job import JobId, JobRow, JobState
from millhand.runtime.attempt import Attempt, format_ids
from millhand.transition import StateChange

# In place of None, in rows that were not fetched by a client.
ZERO = datetime.min.replace(tzinfo=UTC)


class Pending(msgspec.Struct, frozen=True, gc=False):
    """A change to be written, and what its event and its log lines need."""

    change: StateChange
    attempt: Attempt
    handed_over_at: float
    is_plain: bool  # completed, without metadata

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


def format_outcomes(changes: Iterable[StateChange]) -> str:
    """Return one line with the job ids of each state, up to `NUM_IDS_MAX` of each."""
    by_state: dict[JobState, list[JobId]] = {}
    for change in changes:
        by_state.setdefault(change.state, []).append(change.id)
    return "; ".join(f"{state.value}: {format_ids(ids)}" for state, ids in sorted(by_state.items()))
