"""Statements by which an attempt writes its own job, in a transaction of its worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from millhand.errors import JobNotRunning, NotFound
from millhand.job import JobRow, Json
from millhand.store.job_row import encode_json, parse_job
from millhand.store.query import Query, Row
from millhand.transition import last_attempted_by


def job_complete(attempt: JobRow, metadata: Mapping[str, Json], *, now: datetime) -> Query[JobRow]:
    """
    Complete the job whose row was fetched as `attempt`, and merge `metadata` into its own.

    Units: `now` is the instant of the completion.
    Raises: NotFound; JobNotRunning if the job does not run, or was fetched again; then nothing was written.
    Concurrency: safe to race; the second of two waits for the first one's transaction.
    Source: River v0.51.2, job_complete_tx.go `JobCompleteTx`, river_job.sql `JobSetStateIfRunningMany`.
    """
    params = {**_params(attempt, metadata), "finalized_at": now}
    return Query("job_complete", params, lambda rows: _parse(attempt, rows))


def job_merge_metadata(attempt: JobRow, metadata: Mapping[str, Json]) -> Query[JobRow]:
    """
    Merge `metadata` into that of the job whose row was fetched as `attempt`.

    Raises: as `job_complete`. Concurrency: as `job_complete`.
    Source: River v0.51.2, resumable_step_tx.go `resumableSetStepTx`, river_job.sql `JobUpdate`.
    """
    return Query("job_merge_metadata", _params(attempt, metadata), lambda rows: _parse(attempt, rows))


def _params(attempt: JobRow, metadata: Mapping[str, Json]) -> dict[str, object]:
    return {
        "attempted_at": attempt.attempted_at,
        "attempted_by": last_attempted_by(attempt),
        "id": attempt.id,
        "metadata": encode_json(dict(metadata)),
    }


def _parse(attempt: JobRow, rows: Sequence[Row]) -> JobRow:
    if not rows:
        raise NotFound("job", attempt.id)
    job = parse_job(rows[0])
    if not rows[0][-1]:
        state = "running again" if job.state == attempt.state else job.state.value
        raise JobNotRunning(attempt.id, attempt.attempt, state)
    return job
