"""Statements for dead letters, the copies of discarded jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from millhand.core.errors import NotFound
from millhand.core.job import JobId, JobRow, JobState
from millhand.db.query import Query, Row, parse_count, parse_none
from millhand.dead_jobs.dead_job import DeadJob, DeadJobFilters
from millhand.engine.store.job_row import parse_job

LIMIT_DEFAULT = 100
LIMIT_MAX = 10_000
SUBJECT = "dead letter"


class CopyStart(NamedTuple):
    """
    What a pass that begins sees: the database's time, a transaction id, and how far the copies are.

    `xid` is higher than those of all transactions that have written something. `seen_at` is the start of an earlier pass;
    `has_ended` says that all transactions that wrote then have ended.
    """

    at: datetime
    xid: str
    settled_to: str
    seen_at: datetime | None
    has_ended: bool
    is_of_other_server: bool


class CopyPage(NamedTuple):
    """
    A page of discarded jobs: how many were read, copied, and skipped because of a lock.

    `last_at` and `last_id` are the position of the last one; None for no job.
    """

    num_read: int
    num_copied: int
    num_skipped: int
    last_at: str | None
    last_id: JobId | None


class RetriedPage(NamedTuple):
    """How many dead letters a page had, how many were deleted, and the last one; None for none."""

    num_read: int
    num_deleted: int
    last_id: JobId | None


def dead_job_get_shape() -> Query[bool]:
    """Return whether the tables are there, and whether this role may write them."""
    return Query("dead_job_get_shape", {}, lambda rows: bool(rows[0][0]))


def dead_job_begin(*, now: datetime | None = None) -> Query[CopyStart]:
    """Return how far the copies are, and what a pass that begins now sees."""
    return Query("dead_job_begin", {"now": now}, lambda rows: CopyStart(*rows[0]))


def dead_job_copy_settings() -> Query[None]:
    """Set how this transaction plans. Each `dead_job_copy` follows it."""
    return Query("dead_job_copy_settings", {}, parse_none)


def dead_job_copy(
    *, after_at: str, after_id: int, limit: int, retention: timedelta | None, now: datetime | None = None
) -> Query[CopyPage]:
    """
    Copy up to `limit` discarded jobs after a position, those that have no copy of this discard.

    Concurrency: safe to race. Jobs that another transaction has locked are left out.
    """
    params = {"after_at": after_at, "after_id": after_id, "limit": limit, "now": now, "retention": retention}
    return Query("dead_job_copy", params, lambda rows: CopyPage(*rows[0]))


def dead_job_end(
    *, seen_at: datetime, seen_xid: str, settled_to: datetime | None, is_seen: bool
) -> Query[bool]:
    """
    Record how far a pass has come, and with `is_seen` its start; return whether no job was discarded after that.

    `settled_to` is None if the pass has not settled anything.
    """
    params = {"is_seen": is_seen, "seen_at": seen_at, "seen_xid": seen_xid, "settled_to": settled_to}
    return Query("dead_job_end", params, lambda rows: bool(rows[0][0]))


def dead_job_forget() -> Query[None]:
    """Delete the record of how far the copies are."""
    return Query("dead_job_forget", {}, parse_none)


def dead_job_delete_before(*, retention: timedelta, limit: int, now: datetime | None = None) -> Query[int]:
    """Delete up to `limit` dead letters that are older than the retention, oldest first, and return how many."""
    return Query("dead_job_delete_before", {"limit": limit, "now": now, "retention": retention}, parse_count)


def dead_job_delete_retried(*, after_id: int, limit: int) -> Query[RetriedPage]:
    """Read up to `limit` dead letters after an id, and delete those whose job was retried by other means."""
    params = {"after_id": after_id, "limit": limit}
    return Query("dead_job_delete_retried", params, lambda rows: RetriedPage(*rows[0]))


def dead_job_list(
    filters: DeadJobFilters, *, after: tuple[datetime, int] | None = None, limit: int = LIMIT_DEFAULT
) -> Query[list[DeadJob]]:
    """
    Return up to `limit` dead letters that pass the filters, those discarded last first, after a position.

    Raises: ValueError for a limit out of range.
    """
    fragments, params = page_parts(filters, after=after, limit=limit)
    return Query("dead_job_list", params, lambda rows: [_parse(row) for row in rows], fragments=fragments)


def page_parts(
    filters: DeadJobFilters, *, after: tuple[datetime, int] | None, limit: int
) -> tuple[tuple[tuple[str, str], ...], dict[str, Any]]:
    """Return the fragments and parameters of a page of dead letters. Raises: ValueError for a limit out of range."""
    if isinstance(limit, bool) or not 1 <= limit <= LIMIT_MAX:
        raise ValueError(f"limit must be between 1 and {LIMIT_MAX:,}, got {limit!r}")
    clauses, params = _filter_clauses(filters)
    if after is not None:
        clauses.append("(dead.finalized_at, dead.id) < (@after_at::timestamptz, @after_id::bigint)")
        params |= {"after_at": after[0], "after_id": after[1]}
    return (("where", "\nAND ".join(clauses) or "TRUE"),), {**params, "limit": limit}


def dead_job_get(id: int) -> Query[DeadJob]:
    """Return the dead letter of a job. Raises: NotFound."""
    fragments = (("where", "dead.id = @id::bigint"),)
    return Query("dead_job_list", {"id": id, "limit": 1}, _found(id), fragments=fragments)


def dead_job_lock(id: int) -> Query[DeadJob]:
    """Lock the dead letter of a job, and the job's row, until the end of the transaction. Raises: NotFound."""
    return Query("dead_job_lock", {"id": id}, _found(id))


def dead_job_restore(id: int, *, now: datetime | None = None) -> Query[JobRow]:
    """Insert the job of a locked dead letter again, available now, and return its row."""
    return Query("dead_job_restore", {"id": id, "now": now}, lambda rows: parse_job(rows[0]))


def dead_job_remove(id: int) -> Query[None]:
    """Delete the dead letter of a job; the job's row stays."""
    return Query("dead_job_remove", {"id": id}, parse_none)


def _filter_clauses(filters: DeadJobFilters) -> tuple[list[str], dict[str, Any]]:
    clauses: list[str] = []
    params: dict[str, Any] = {}
    for column, values in (("kind", filters.kinds), ("queue", filters.queues)):
        if values is not None:
            # One value lets the planner read the index in the order of the list.
            one = f"dead.{column} = (@{column}s::text [])[1]"
            clauses.append(one if len(values) == 1 else f"dead.{column} = ANY(@{column}s::text [])")
            params[f"{column}s"] = list(values)
    if filters.error is not None:
        last = "dead.errors[array_upper(dead.errors, 1)]"
        clauses.append(f"strpos(lower({last} ->> 'error'), lower(@error::text)) > 0")
        params["error"] = filters.error
    for name, sign, at in (("since", ">=", filters.since), ("until", "<", filters.until)):
        if at is not None:
            clauses.append(f"dead.finalized_at {sign} @{name}::timestamptz")
            params[name] = at
    return clauses, params


def _parse(row: Row) -> DeadJob:
    *_, copied_at, state = row
    return DeadJob(parse_job(row), copied_at, None if state is None else JobState(state))


def _found(id: int) -> Any:  # noqa: ANN401 - the parser of one row
    def parse(rows: Sequence[Row]) -> DeadJob:
        if not rows:
            raise NotFound(SUBJECT, id)
        return _parse(rows[0])

    return parse
