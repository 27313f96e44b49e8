"""Statements about the job table as a whole, for the verdict of the web page."""

from __future__ import annotations

from datetime import datetime

import msgspec

from millhand.job import JobId
from millhand.store.query import Query

# Of so many running jobs, the page looks for those that have run for longest.
RUNNING_MAX = 2_000


class RunningJob(msgspec.Struct, frozen=True):
    """A job that runs, and since when."""

    id: JobId
    kind: str
    queue: str
    attempted_at: datetime


class TableState(msgspec.Struct, frozen=True):
    """The rows of the job table: live and dead ones, as PostgreSQL estimates them, and its oldest completed job."""

    num_live: int
    num_dead: int
    oldest_completed_at: datetime | None


def job_list_longest_running(*, limit: int) -> Query[list[RunningJob]]:
    """Return the jobs that have run for longest, the oldest first."""
    params = {"limit": limit, "running_max": RUNNING_MAX}
    return Query("job_list_longest_running", params, lambda rows: [RunningJob(*row) for row in rows])


def job_get_table_state() -> Query[TableState]:
    """Return the state of the job table."""
    return Query("job_get_table_state", {}, lambda rows: TableState(*rows[0]))
