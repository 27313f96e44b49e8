"""The statement that lets a waiting job wait longer, or less long."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from millhand.core.errors import JobNotWaiting, NotFound
from millhand.core.job import JobId, JobRow
from millhand.db.query import Query, Row
from millhand.engine.store.job_row import parse_job


def job_snooze(id: JobId, until: datetime) -> Query[JobRow]:
    """Let an available, scheduled or retryable job wait until an instant. Raises: NotFound, JobNotWaiting."""

    def parse(rows: Sequence[Row]) -> JobRow:
        if not rows:
            raise NotFound("job", id)
        job = parse_job(rows[0])
        if not rows[0][-1]:
            raise JobNotWaiting(id, job.state)
        return job

    return Query("job_snooze", {"id": id, "until": until}, parse)
