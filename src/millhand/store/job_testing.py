"""What tests of workers say to PostgreSQL."""

from __future__ import annotations

from datetime import datetime

from millhand.job import ClientId, JobId, JobRow
from millhand.store.job_row import parse_job
from millhand.store.query import Query


def job_begin(id: JobId, *, client_id: ClientId, now: datetime) -> Query[JobRow]:
    """
    Mark a job running, whatever it waits for, and count the attempt.

    Units: `now` is when the attempt begins.
    Source: River v0.51.2, rivertest/worker.go, which does so by its own hand as well.
    """
    return Query("job_begin", {"client_id": client_id, "id": id, "now": now}, lambda rows: parse_job(rows[0]))
