"""Maintenance services process malformed rows like all others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

import pytest

from factory import NOW, insert_job, qualified
from millhand.core.config import Config
from millhand.core.job import JobState
from millhand.core.retry import DefaultRetryPolicy
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.protocol import Executor
from millhand.engine.inserter import Inserter
from millhand.engine.maintenance.batch import BatchSize
from millhand.engine.maintenance.cleaners import JobCleaner
from millhand.engine.maintenance.job_rescuer import JobRescuer
from millhand.engine.maintenance.job_scheduler import JobScheduler
from millhand.testing import ManualClock
from odd_rows import HUGE
from odd_rows import ODD as MALFORMED

HOUR = timedelta(hours=1)
DAYS = timedelta(days=30)
ROWS = [
    *(pytest.param(malformed, id=name) for name, malformed in MALFORMED.items()),
    pytest.param(HUGE, id="an output of 40 MiB", marks=pytest.mark.slow),
]
FINALIZED = (JobState.CANCELLED, JobState.COMPLETED, JobState.DISCARDED)


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"
    what: str


async def put(tx: Executor, what: str, state: JobState) -> int:
    """Insert a job that is due for the service of its state."""
    ago = NOW - DAYS
    instants = {"finalized_at": ago} if state.is_finalized else {}
    if state is JobState.RUNNING:
        instants = {"attempted_at": ago}
    job = await insert_job(
        tx, state, args=f'{{"what": "{what}"}}', kind="act", scheduled_at=NOW - HOUR, **instants
    )
    return job.id


async def states(tx: Executor) -> dict[int, str]:
    rows = await tx.fetch(qualified("SELECT id, state::text FROM /* schema */river_job", tx))
    return {row["id"]: row["state"] for row in rows}


@pytest.mark.parametrize("malformed", ROWS)
async def test_malformed_row_blocks_no_maintenance_of_others(tx: Executor, malformed: str) -> None:
    """One pass each of scheduler, rescuer and cleaner processes malformed rows like the others and raises nothing."""
    ids = {
        state: [await put(tx, what, state) for what in ("good", "malformed", "good")]
        for state in (JobState.SCHEDULED, JobState.RETRYABLE, JobState.RUNNING, *FINALIZED)
    }
    await tx.fetch(
        qualified(f"UPDATE /* schema */river_job SET {malformed} WHERE args ->> 'what' = 'malformed'", tx)
    )

    await _sweep(tx)

    after = await states(tx)
    assert {after[id] for state in (JobState.SCHEDULED, JobState.RETRYABLE) for id in ids[state]} == {
        "available"
    }
    assert {after[id] for id in ids[JobState.RUNNING]} == {"retryable"}
    assert not {id for state in FINALIZED for id in ids[state]} & after.keys()


async def _sweep(tx: Executor) -> None:
    clock = ManualClock(NOW)
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    size = BatchSize(clock)
    inserter = Inserter(tx, Config(clock=clock))
    await JobScheduler(tx, inserter, clock=clock, batch_size=size).run_once()
    rescuer = JobRescuer(
        tx,
        clock=clock,
        batch_size=size,
        job_timeout=HOUR,
        rescue_after=HOUR,
        retry_policy=DefaultRetryPolicy(),
        workers=workers,
    )
    await rescuer.run_once()
    week = timedelta(days=7)
    cleaner = JobCleaner(
        tx,
        clock=clock,
        batch_size=size,
        cancelled_retention=week,
        completed_retention=week,
        discarded_retention=week,
    )
    await cleaner.run_once()
