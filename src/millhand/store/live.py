"""Statements that show whether anything on the page has changed. Each reads a bounded part of indexes."""

from __future__ import annotations

from collections.abc import Sequence

from millhand.store.query import Query, Row

COUNTED_MAX = 10_000


def live_get_jobs() -> Query[str]:
    """Return a text that changes when jobs are inserted, change their state or end."""
    return Query("live_get_jobs", {"limit": COUNTED_MAX + 1}, _as_text)


def live_get_queues() -> Query[str]:
    """Return a text that changes when a queue is created, paused, resumed or deleted."""
    return Query("live_get_queues", {}, _as_text)


def live_get_bulk_changes() -> Query[str]:
    """Return a text that changes when a change of many jobs begins, goes on or ends."""
    return Query("live_get_bulk_changes", {}, _as_text)


def live_get_clients() -> Query[str]:
    """Return a text that changes when a client starts, stops or is declared dead, or another one leads."""
    return Query("live_get_clients", {}, _as_text)


def _as_text(rows: Sequence[Row]) -> str:
    return repr(tuple(rows[0]))
