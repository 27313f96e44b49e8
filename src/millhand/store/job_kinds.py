"""What is still to be worked: all jobs that are not finished, page by page, as a deploy wants to know them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from millhand.job import JobId, JobState
from millhand.store.query import Query, Row


class UnfinishedJob(msgspec.Struct, frozen=True):
    """A job that somebody must still decode. `encoded_args` is None for a kind that was not asked for."""

    id: JobId
    kind: str
    queue: str
    priority: int
    scheduled_at: str
    encoded_args: str | None


def before_queue(queue: str) -> UnfinishedJob:
    """Return a place before all jobs of a queue."""
    return UnfinishedJob(JobId(0), "", queue, 0, "-infinity", None)


BEFORE_ALL = before_queue("")


def job_list_unfinished(
    state: JobState, *, after: UnfinishedJob, kinds: Sequence[str], limit: int
) -> Query[list[UnfinishedJob]]:
    """
    Give up to `limit` jobs in one state, after a job of an earlier page, with their args if they are of `kinds`.

    Shape: 0 … `limit` rows by queue, priority, `scheduled_at` and id, as the index has them: a page costs the same
    however many there were before it.
    """
    params = {
        "after_id": after.id,
        "after_priority": after.priority,
        "after_queue": after.queue,
        "after_scheduled_at": after.scheduled_at,
        "kinds": list(kinds),
        "limit": limit,
    }
    return Query("job_list_unfinished", params, _parse, fragments=(("state", state.value),))


def _parse(rows: Sequence[Row]) -> list[UnfinishedJob]:
    return [UnfinishedJob(*row) for row in rows]
