"""Statements about the number of jobs in each queue by state, minute by minute."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.db.query import Query, Row, parse_none
from millhand.history.job_stats import ALL, ROWS_MAX, Step, longer_params

# Jobs of a queue and state are counted up to this number.
DEPTH_MAX = 10_000
DEPTH_STATES = ("available", "retryable", "running", "scheduled")


class QueueDepth(msgspec.Struct, frozen=True):
    """
    The jobs of a queue by state: at a minute, or the largest numbers of a longer interval.

    `oldest_ms` is how long the oldest available job had been due. `is_capped` says that a state had more jobs than
    `DEPTH_MAX`.
    """

    began_at: datetime
    queue: str
    available: int
    running: int
    retryable: int
    scheduled: int
    oldest_ms: int
    is_capped: bool


def queue_depth_record(*, now: datetime | None = None) -> Query[dict[str, timedelta]]:
    """Record the depth of each queue that has unfinished jobs; return the wait of its oldest job if jobs are available."""
    params = {"limit": DEPTH_MAX, "now": now, "states": list(DEPTH_STATES)}
    return Query(
        "queue_depth_record",
        params,
        lambda rows: {
            queue: timedelta(milliseconds=ms)
            for queue, ms, num_available in rows
            if queue != ALL and num_available
        },
    )


def queue_depth_count_longer(step: Step, began_ats: Sequence[datetime]) -> Query[None]:
    """Write the largest numbers of hours, or of days."""
    return Query("queue_depth_count_longer", longer_params(step, began_ats), parse_none)


def queue_depth_list(
    step: Step, *, since: datetime, until: datetime, queue: str = ALL
) -> Query[list[QueueDepth]]:
    """Return the depths of one queue, or of all together, oldest first; a minute without unfinished jobs is left out."""
    params = {"limit": ROWS_MAX, "queue": queue, "since": since, "step": int(step), "until": until}
    return Query("queue_depth_list", params, _parse)


def queue_depth_list_at(
    step: Step, began_ats: Sequence[datetime], *, queues: Collection[str]
) -> Query[list[QueueDepth]]:
    """Return the depths of some queues in the given intervals. `ALL` has one if any queue has."""
    params = {"began_ats": list(began_ats), "queues": list(queues), "step": int(step)}
    return Query("queue_depth_list_at", params, _parse)


def _parse(rows: Sequence[Row]) -> list[QueueDepth]:
    return [QueueDepth(*row) for row in rows]
