"""Statements about the history as a whole: who writes it, how far it is, and what is deleted."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from millhand.db.query import Query, parse_count, parse_none
from millhand.history.job_stats import LONG_ATTEMPT

# A minute is counted when it ended this long ago, and again until it is older than `COUNT_AGAIN`.
COUNT_DELAY = timedelta(seconds=10)
COUNT_AGAIN = timedelta(minutes=3)
# Without a job for this long, there is nothing to count and nothing to add up.
BUSY_FOR = timedelta(minutes=10)
# Minutes before that are not counted any more; River deletes completed jobs after a day.
COUNT_BACK = timedelta(days=1)
CLAIM_TTL = timedelta(minutes=3)

MINUTES_RETENTION = timedelta(days=2)
RETENTION = timedelta(days=90)
EVENT_RETENTION = timedelta(days=30)
AUDIT_RETENTION = timedelta(days=365)

TABLES = ("millhand_job_stats", "millhand_queue_depth", "millhand_error_stats")


class HistoryClaim(msgspec.Struct, frozen=True):
    """
    A pass that may write: the database's time, and the minutes to count, from `counted_to` to `counts_to`.

    Without `has_jobs` there is nothing to count. `discarded_at` is the instant of the last discard, None without one.
    """

    at: datetime
    counted_to: datetime
    counts_to: datetime
    has_jobs: bool
    discarded_at: datetime | None = None


class HistoryState(msgspec.Struct, frozen=True):
    """Who writes the history, until when unless it renews its claim, and to which instant all minutes are counted."""

    holder: str
    expires_at: datetime
    counted_to: datetime


def history_get_shape() -> Query[bool]:
    """Return whether the tables are there, and whether this role may write them."""
    return Query("history_get_shape", {}, lambda rows: bool(rows[0][0]))


def history_begin(
    *, holder: str, takes_over: bool = False, now: datetime | None = None
) -> Query[HistoryClaim | None]:
    """
    Claim the history for one pass, and record what happened to clients.

    Returns None if another writer has the claim, unless this one `takes_over`.
    """
    params = {
        "back": COUNT_BACK,
        "busy_for": BUSY_FOR,
        "delay": COUNT_DELAY,
        "holder": holder,
        "long_attempt": LONG_ATTEMPT,
        "now": now,
        "takes_over": takes_over,
        "ttl": CLAIM_TTL,
    }
    return Query("history_begin", params, lambda rows: HistoryClaim(*rows[0]) if rows else None)


def history_end(*, holder: str, counted_to: datetime) -> Query[None]:
    """Record to which instant all minutes are counted."""
    return Query("history_end", {"counted_to": counted_to, "holder": holder}, parse_none)


def history_get() -> Query[HistoryState | None]:
    """Return how far the history is; None if no pass was made yet."""
    return Query("history_get", {}, lambda rows: HistoryState(*rows[0]) if rows else None)


def history_delete_intervals(table: str, *, at: datetime, limit: int) -> Query[int]:
    """Delete up to `limit` old intervals of each step of one of `TABLES`, and return how many."""
    params = {"before": at - RETENTION, "limit": limit, "minutes_before": at - MINUTES_RETENTION}
    fragments = (("history_table", table),)
    return Query("history_delete_intervals", params, parse_count, fragments=fragments)


def history_delete_records(*, at: datetime, limit: int) -> Query[int]:
    """Delete up to `limit` old error groups, events and audit entries each, and return how many."""
    params = {
        "audit_before": at - AUDIT_RETENTION,
        "before": at - RETENTION,
        "events_before": at - EVENT_RETENTION,
        "limit": limit,
    }
    return Query("history_delete_records", params, parse_count)
