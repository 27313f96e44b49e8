"""Statements of the testing kit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from millhand.core.job import ClientId, JobId, JobRow, Json
from millhand.db.query import Query
from millhand.engine.store.job_row import encode_json, parse_job


class LeaderWork(NamedTuple):
    """Of which kinds there is work for the leader. Without an answer, there may be work of all of them."""

    has_limits: bool = True
    has_flows: bool = True
    has_schedules: bool = True
    has_due: bool = True
    has_discarded: bool = True


def leader_get_work(*, now: datetime | None = None) -> Query[LeaderWork]:
    """Return of which kinds there is work. The tables of line millhand must be there."""
    return Query("leader_get_work", {"now": now}, lambda rows: LeaderWork(*rows[0]))


def job_begin(
    id: JobId, *, client_id: ClientId, metadata: Mapping[str, Json], now: datetime
) -> Query[JobRow]:
    """Mark a job running, whatever its state, count the attempt, which begins `now`, and merge `metadata` into its own."""
    params = {"client_id": client_id, "id": id, "metadata": encode_json(dict(metadata)), "now": now}
    return Query("job_begin", params, lambda rows: parse_job(rows[0]))


def job_get_next_queue(
    *,
    kinds: Sequence[str] | None,
    queues: Sequence[str] | None,
    excluded_queues: Sequence[str] = (),
    has_limits: bool = False,
    now: datetime | None = None,
) -> Query[str | None]:
    """
    Return the unpaused queue whose next job has been due for longest; None for `kinds` or `queues` means all.

    With `has_limits`, jobs that wait for a slot of a limit count too.
    """
    params = {"excluded_queues": list(excluded_queues), "kinds": kinds, "now": now, "queues": queues}
    name = "limited_job_get_next_queue" if has_limits else "job_get_next_queue"
    return Query(name, params, lambda rows: rows[0][0] if rows else None)


def job_make_due(
    *, queues: Sequence[str] | None, retryable: bool, scheduled: bool, now: datetime | None = None
) -> Query[int]:
    """Make jobs due that are scheduled, or that wait for a retry, and return how many."""
    params = {"now": now, "queues": queues, "retryable": retryable, "scheduled": scheduled}
    return Query("job_make_due", params, len)


def job_next_instant(*, after: datetime, until: datetime) -> Query[datetime | None]:
    """Return the instant at which the next job is due; None if none is due by `until`."""
    return Query("job_next_instant", {"after": after, "until": until}, lambda rows: rows[0][0])


def limit_next_instant(*, after: datetime, until: datetime) -> Query[datetime | None]:
    """Return the instant at which the next partition of a limit opens; None if none does by `until`."""
    return Query("limit_next_instant", {"after": after, "until": until}, lambda rows: rows[0][0])
