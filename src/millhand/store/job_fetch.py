"""The fetch that skips the beginning of its queue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from millhand.job import ClientId, JobRow
from millhand.store.job import ATTEMPTED_BY_MAX, parse_fetched
from millhand.store.query import Query

PRIORITIES = (1, 2, 3, 4)


class FetchStart(NamedTuple):
    """A position in the order of one queue's jobs of one priority; a fetch reads due jobs after it."""

    at: datetime
    id: int


# One for each of PRIORITIES; None is the beginning.
Starts = tuple[FetchStart | None, FetchStart | None, FetchStart | None, FetchStart | None]
START: Starts = (None, None, None, None)


def job_get_available_after(
    starts: Starts,
    *,
    queue: str,
    slack_seconds: float = 0.0,
    limit: int,
    client_id: ClientId,
    kinds: Sequence[str] | None = None,
    now: datetime | None = None,
) -> Query[list[JobRow]]:
    """
    Fetch as `job_get_available`, but only jobs after the start of their priority.

    While a transaction keeps an old snapshot, the index keeps the entries of jobs that were fetched long ago. A fetch from
    the beginning reads them all.

    A start later than `slack_seconds` ago counts as that instant: jobs may be committed in another order than that of
    their instants.

    Shape, Units, Concurrency: as `job_get_available`.
    """
    params = {
        "client_id": client_id,
        "start_ats": [None if start is None else start.at for start in starts],
        "start_ids": [None if start is None else start.id for start in starts],
        "kinds": None if kinds is None else list(kinds),
        "limit": limit,
        "max_attempted_by": ATTEMPTED_BY_MAX,
        "now": now,
        "queue": queue,
        "slack_seconds": slack_seconds,
    }
    return Query("job_get_available_after", params, parse_fetched)
