"""Statements about the unfinished jobs of queues, each bounded by an index: names, numbers, due kinds, newest jobs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from millhand.core.job import JobId, JobState
from millhand.core.queue import QueueRow
from millhand.db.query import Query, Row
from millhand.engine.store.job_row import parse_object

COUNTED_MAX = 10_000
# Of each queue, where kinds are searched for.
NUM_DUE = 1_000
NAMES_LIMIT = 100


class QueueLoad(msgspec.Struct, frozen=True, kw_only=True):
    """
    The unfinished jobs of one queue. A number above `COUNTED_MAX` stands for any such number; it is not counted further.

    `row` is None for a queue that no client has worked yet, or not for a day.
    """

    name: str
    row: QueueRow | None
    available: int
    retryable: int
    running: int
    scheduled: int
    oldest_available_at: datetime | None
    next_scheduled_at: datetime | None


class DueKind(msgspec.Struct, frozen=True):
    """A kind among the first due jobs of a queue."""

    queue: str
    kind: str
    num_due: int
    oldest_at: datetime


class QueueJob(msgspec.Struct, frozen=True):
    """A job of a queue, without its args."""

    id: JobId
    kind: str
    state: JobState
    attempt: int
    max_attempts: int
    priority: int
    created_at: datetime
    scheduled_at: datetime


def queue_list_names(
    *, after_name: str = "", limit: int = NAMES_LIMIT, among: Collection[str] | None = None
) -> Query[list[str]]:
    """
    Return up to `limit` names of queues that follow `after_name`: those with a row, and those of waiting jobs.

    `among` are the only names that count; None is all.
    """
    params: dict[str, object] = {"after_name": after_name, "limit": limit}
    if among is None:
        return Query("queue_list_names", params, _parse_names)
    return Query("queue_list_names_among", {**params, "names": list(among)}, _parse_names)


def queue_get_loads(names: Collection[str], *, counted_max: int = COUNTED_MAX) -> Query[list[QueueLoad]]:
    """Return the unfinished jobs of each queue, by name."""
    params = {"limit": counted_max + 1, "names": list(names)}
    return Query("queue_get_loads", params, lambda rows: [_parse_load(row) for row in rows])


def queue_get_due_kinds(
    names: Collection[str], *, limit: int, now: datetime | None = None
) -> Query[list[DueKind]]:
    """Return the kinds among the first `limit` due jobs of each queue, those with most jobs first."""
    params = {"limit": limit, "names": list(names), "now": now}
    return Query("queue_get_due_kinds", params, lambda rows: [DueKind(*row) for row in rows])


def queue_get_newest_jobs(name: str, *, limit: int) -> Query[list[QueueJob]]:
    """Return the newest jobs of a queue, in all states."""
    params = {"limit": limit, "name": name}
    return Query("queue_get_newest_jobs", params, lambda rows: [_parse_job(row) for row in rows])


def _parse_names(rows: Sequence[Row]) -> list[str]:
    return [row[0] for row in rows]


def _parse_load(row: Row) -> QueueLoad:
    name, created_at, metadata, paused_at, updated_at = row[:5]
    available, retryable, running, scheduled, oldest_available_at, next_scheduled_at = row[5:]
    has_row = metadata is not None
    return QueueLoad(
        name=name,
        row=QueueRow(name, created_at, parse_object(metadata), paused_at, updated_at) if has_row else None,
        available=available,
        retryable=retryable,
        running=running,
        scheduled=scheduled,
        oldest_available_at=oldest_available_at,
        next_scheduled_at=next_scheduled_at,
    )


def _parse_job(row: Row) -> QueueJob:
    id, kind, state, attempt, max_attempts, priority, created_at, scheduled_at = row
    return QueueJob(
        id, kind, JobState(state), attempt, max_attempts, priority, created_at, scheduled_at
    )  # fmt: skip
