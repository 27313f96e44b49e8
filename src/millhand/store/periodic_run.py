"""Statements about the runs of periodic jobs."""

from __future__ import annotations

from millhand.insert_opts import InsertParams
from millhand.store.query import Query


def periodic_run_exists(params: InsertParams, periodic_job_id: str) -> Query[bool]:
    """Return whether the run that `params` would insert is in the table."""
    values = {
        "kind": params.kind,
        "periodic_job_id": periodic_job_id,
        "priority": params.priority,
        "queue": params.queue,
        "scheduled_at": params.scheduled_at,
    }
    return Query("periodic_run_exists", values, lambda rows: bool(rows[0][0]))
