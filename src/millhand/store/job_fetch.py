"""The fetch that does not begin at the start of its queue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from millhand.job import ClientId, JobRow
from millhand.store.job import ATTEMPTED_BY_MAX, parse_fetched
from millhand.store.query import Query

PRIORITIES = (1, 2, 3, 4)


class FetchStart(NamedTuple):
    """A place in the order of the jobs of one queue and priority; what is due and stands above it is looked at."""

    at: datetime
    id: int


# One for each of PRIORITIES; None is for the start.
Floors = tuple[FetchStart | None, FetchStart | None, FetchStart | None, FetchStart | None]
START: Floors = (None, None, None, None)


def job_get_available_above(
    floors: Floors,
    *,
    queue: str,
    slack_seconds: float = 0.0,
    limit: int,
    client_id: ClientId,
    kinds: Sequence[str] | None = None,
    now: datetime | None = None,
) -> Query[list[JobRow]]:
    """
    Do what `job_get_available` does with those jobs that stand above the floor of their priority.

    A floor that lies later than `slack_seconds` ago counts as that instant: jobs may be committed in another order than
    that of their instants. Where transactions keep an old snapshot, the entries of jobs that were fetched long ago stay
    in the index, and this does not read those below the floors.

    Shape, Units, Concurrency: as `job_get_available`.
    """
    params = {
        "client_id": client_id,
        "floor_ats": [None if floor is None else floor.at for floor in floors],
        "floor_ids": [None if floor is None else floor.id for floor in floors],
        "kinds": None if kinds is None else list(kinds),
        "limit": limit,
        "max_attempted_by": ATTEMPTED_BY_MAX,
        "now": now,
        "queue": queue,
        "slack_seconds": slack_seconds,
    }
    return Query("job_get_available_above", params, parse_fetched)
