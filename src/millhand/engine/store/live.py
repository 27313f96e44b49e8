"""Statements that show whether anything on the page has changed. Each reads a bounded part of indexes."""

from __future__ import annotations

from collections.abc import Sequence

from millhand.db.query import Query, Row

COUNTED_MAX = 10_000
_COUNTS = "; "


def live_get_jobs(before: str = "") -> Query[str]:
    """
    Return a text that changes when jobs are inserted, change their state or end.

    `before` is the last such text. If jobs were inserted or ended since, the others are not counted: the text differs
    anyway, and where many jobs end, the count reads many dead index entries.
    """
    params = {"before": before.partition(_COUNTS)[0], "limit": COUNTED_MAX + 1}
    return Query("live_get_jobs", params, lambda rows: _COUNTS.join(map(str, rows[0])))


def live_get_queues() -> Query[str]:
    """Return a text that changes when a queue is created, paused, resumed or deleted."""
    return Query("live_get_queues", {}, _as_text)


def live_get_bulk_changes() -> Query[str]:
    """Return a text that changes when a change of many jobs begins, goes on, fails or ends."""
    return Query("live_get_bulk_changes", {}, _as_text)


def live_get_clients() -> Query[str]:
    """Return a text that changes when a client starts, stops or is declared dead, or another one leads."""
    return Query("live_get_clients", {}, _as_text)


def _as_text(rows: Sequence[Row]) -> str:
    return repr(tuple(rows[0]))
