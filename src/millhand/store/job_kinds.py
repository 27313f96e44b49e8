"""All unfinished jobs, page by page, for the check before a deploy."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from millhand.job import JobId, JobState
from millhand.store.query import Query, Row


class UnfinishedJob(msgspec.Struct, frozen=True):
    """An unfinished job. `encoded_args` is None for a kind whose args were not requested."""

    id: JobId
    kind: str
    queue: str
    priority: int
    scheduled_at: str
    encoded_args: str | None


def before_queue(queue: str) -> UnfinishedJob:
    """Return a position before all jobs of a queue."""
    return UnfinishedJob(JobId(0), "", queue, 0, "-infinity", None)


BEFORE_ALL = before_queue("")


def job_list_unfinished(
    state: JobState, *, after: UnfinishedJob, kinds: Sequence[str], limit: int
) -> Query[list[UnfinishedJob]]:
    """
    Return up to `limit` jobs in one state after the last job of the previous page, with the args of those of `kinds`.

    Shape: 0 … `limit` rows by queue, priority, `scheduled_at` and id. This is the index's order, so that every page costs
    the same.
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
