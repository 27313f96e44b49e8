"""Statements about the job table as a whole, for the verdict about a fleet, and for metrics."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from millhand.core.job import JobId
from millhand.db.query import Query, Row

# Of so many running jobs, the page looks for those that have run for longest.
RUNNING_MAX = 2_000


class RunningJob(msgspec.Struct, frozen=True):
    """A job that runs, and since when."""

    id: JobId
    kind: str
    queue: str
    attempted_at: datetime


class TableState(msgspec.Struct, frozen=True):
    """
    The rows of the job table: live and dead ones, as PostgreSQL estimates them, and its oldest completed job.

    That is not a task of a flow, and None if the oldest thousand are all tasks.
    """

    num_live: int
    num_dead: int
    oldest_completed_at: datetime | None


class TableSize(msgspec.Struct, frozen=True):
    """The rows of a table as PostgreSQL estimates them, its size without and that of its indexes, and its last vacuum."""

    name: str
    num_live: int
    num_dead: int
    num_bytes: int
    num_index_bytes: int
    vacuumed_at: datetime | None


def job_list_longest_running(*, limit: int) -> Query[list[RunningJob]]:
    """Return the jobs that have run for longest, the oldest first."""
    params = {"limit": limit, "running_max": RUNNING_MAX}
    return Query("job_list_longest_running", params, lambda rows: [RunningJob(*row) for row in rows])


def job_get_table_state() -> Query[TableState]:
    """Return the state of the job table."""
    return Query("job_get_table_state", {}, lambda rows: TableState(*rows[0]))


def table_list_sizes(names: Sequence[str]) -> Query[list[TableSize]]:
    """Return the sizes of tables; one that is not there is left out."""
    return Query("table_list_sizes", {"names": list(names)}, lambda rows: [TableSize(*row) for row in rows])


def index_list_sizes() -> Query[dict[str, int]]:
    """Return the size in bytes of each index of the job table."""
    return Query("index_list_sizes", {}, _parse_sizes)


def session_get_oldest_transaction() -> Query[float | None]:
    """Return for how many seconds the oldest transaction has been open; None if this role may not see other sessions."""
    return Query("session_get_oldest_transaction", {}, lambda rows: rows[0][0])


def _parse_sizes(rows: Sequence[Row]) -> dict[str, int]:
    return {row[0]: row[1] for row in rows}
