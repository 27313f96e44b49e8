"""The statement that reads how awaited jobs ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from millhand.core.job import JobId
from millhand.db.query import Query, Row

Ended = tuple[JobId, Row | None]
"""The id of a job that ended, and its row for `parse_job`; None if the job does not exist."""


def job_get_ended(ids: Collection[JobId]) -> Query[list[Ended]]:
    """Return those of the jobs that have ended or do not exist, in any order."""
    return Query("job_get_ended", {"ids": list(ids)}, _parse)


def _parse(rows: Sequence[Row]) -> list[Ended]:
    return [(JobId(id), None if row[0] is None else row) for id, *row in rows]
