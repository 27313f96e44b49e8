"""Statements about periodic jobs as the rows of their runs show them; the jobs that clients declare are not stored."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import msgspec

from millhand.core.job import JobId, JobState
from millhand.db.query import Query, Row
from millhand.engine.store.job_row import flat_texts

PERIODIC_KEY = "river:periodic_job_id"
# It marks a run that a person inserted.
RUN_NOW_KEY = "millhand:run_now"
KINDS_MAX = 300
# The statements have this limit. A job that is due every minute has fewer runs in a day.
RUNS_MAX = 2_000
IDS_MAX = 100


class PeriodicJobId(msgspec.Struct, frozen=True):
    """The id of a periodic job, and the kind and queue of one of its runs."""

    id: str
    kind: str
    queue: str


class PeriodicRun(msgspec.Struct, frozen=True):
    """
    A run of a periodic job. `num_runs` is how many runs were found, at most `RUNS_MAX`.

    A person inserted it if `is_run_now`, or else a leader.
    """

    periodic_job_id: str
    id: JobId
    kind: str
    queue: str
    state: JobState
    created_at: datetime
    num_runs: int
    is_run_now: bool = False


class PeriodicSource(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy of a run would have. `args` are cut, and None if they are large."""

    id: JobId
    args: str | None
    priority: int
    max_attempts: int
    tags: tuple[str, ...]


def periodic_job_list_ids() -> Query[list[PeriodicJobId]]:
    """Return the ids of periodic jobs that runs in the table have, by id; a rare one may be missed."""
    params = {"kinds_max": KINDS_MAX, "limit": IDS_MAX}
    return Query("periodic_job_list_ids", params, lambda rows: [PeriodicJobId(*row) for row in rows])


def periodic_job_list_runs(ids: Collection[str], *, limit: int) -> Query[list[PeriodicRun]]:
    """
    Return up to `limit` runs of each periodic job, newest first.

    Of one with `RUNS_MAX` runs or more, only those among the newest jobs of all are returned. If the index of metadata is
    off, the same holds for a job whose kind has so many rows.
    """
    params = {"ids": list(ids), "limit": limit, "kinds_max": KINDS_MAX}
    return Query(
        "periodic_job_list_runs",
        params,
        lambda rows: [
            PeriodicRun(name, id, kind, queue, JobState(state), *others)
            for name, id, kind, queue, state, *others in rows
        ],
    )


def periodic_job_list_sources(ids: Collection[JobId], *, args_length: int) -> Query[list[PeriodicSource]]:
    """Return what copies of these jobs would have; of args, so many characters."""
    params = {"ids": list(ids), "args_length": args_length}
    fields = PeriodicSource.__struct_fields__

    def parse(row: Row) -> PeriodicSource:
        values = dict(zip(fields, row, strict=True))
        return PeriodicSource(**{**values, "tags": flat_texts(values["tags"])})

    return Query("periodic_job_list_sources", params, lambda rows: [parse(row) for row in rows])
