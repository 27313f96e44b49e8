"""What tests of workers say to PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
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
