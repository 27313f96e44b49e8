"""Statements about jobs that clients deleted when they completed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from millhand.db.query import Query, parse_none
from millhand.history.job_stats import JobStats
from millhand.history.store import MINUTES_RETENTION


def deleted_job_stats_put_many(stats: Sequence[JobStats], *, counter_id: str) -> Query[None]:
    """
    Write all that the counter `counter_id` has counted of some minutes so far, and delete what is old.

    Concurrency: safe to repeat and to race; numbers never decrease.
    """
    encoded = msgspec.json.encode(stats).decode()
    params = {"counter_id": counter_id, "kept_for": MINUTES_RETENTION, "stats": encoded}
    return Query("deleted_job_stats_put_many", params, parse_none)
