"""What tests of workers say to PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from millhand.job import ClientId, JobId, JobRow, Json
from millhand.store.job_row import encode_json, parse_job
from millhand.store.query import Query


def job_begin(
    id: JobId, *, client_id: ClientId, metadata: Mapping[str, Json], now: datetime
) -> Query[JobRow]:
    """
    Mark a job running, whatever it waits for, count the attempt, and merge `metadata` into its own.

    Units: `now` is when the attempt begins.
    Source: River v0.51.2, rivertest/worker.go, which does so by its own hand as well.
    """
    params = {"client_id": client_id, "id": id, "metadata": encode_json(dict(metadata)), "now": now}
    return Query("job_begin", params, lambda rows: parse_job(rows[0]))


def job_due_queue(
    *,
    kinds: Sequence[str] | None,
    queues: Sequence[str] | None,
    excluded_queues: Sequence[str] = (),
    now: datetime | None = None,
) -> Query[str | None]:
    """Give the queue whose next job is due for longest; None of `kinds`, or of `queues`, is all. Paused ones are left."""
    params = {"excluded_queues": list(excluded_queues), "kinds": kinds, "now": now, "queues": queues}
    return Query("job_due_queue", params, lambda rows: rows[0][0] if rows else None)


def job_hasten(
    *, queues: Sequence[str] | None, retryable: bool, scheduled: bool, now: datetime | None = None
) -> Query[int]:
    """Have the time come of jobs that are to be tried again, or were never tried and are scheduled; give how many."""
    params = {"now": now, "queues": queues, "retryable": retryable, "scheduled": scheduled}
    return Query("job_hasten", params, len)


def job_next_instant(*, after: datetime, until: datetime) -> Query[datetime | None]:
    """Give the instant at which the next job is due; None if none is by `until`."""
    return Query("job_next_instant", {"after": after, "until": until}, lambda rows: rows[0][0])
