"""Changes of pending jobs, which may wait for a capability."""

from __future__ import annotations

from datetime import timedelta

import pytest

from factory import NOW, insert_job
from millhand.capabilities import JOB_CHANGES
from millhand.core.errors import JobNotWaiting
from millhand.core.job import JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.job_change import JobChanges


@pytest.mark.parametrize("changes", [JobChanges(), JOB_CHANGES], ids=["no capability", "limits"])
async def test_pending_job_that_waits_for_nothing_is_made_available(
    tx: Executor, changes: JobChanges
) -> None:
    """A program of yours may insert pending jobs, as with River; a retry makes such a job available."""
    job = await insert_job(tx, JobState.PENDING)

    retried = await changes.retry(tx, job.id, now=NOW)

    assert retried.state is JobState.AVAILABLE


@pytest.mark.parametrize("changes", [JobChanges(), JOB_CHANGES], ids=["no capability", "limits"])
async def test_pending_job_that_waits_for_nothing_cannot_be_snoozed(
    tx: Executor, changes: JobChanges
) -> None:
    """Only a job that would start by itself has a time to start."""
    job = await insert_job(tx, JobState.PENDING)

    with pytest.raises(JobNotWaiting) as caught:
        await changes.snooze(tx, job.id, NOW + timedelta(hours=1))

    assert caught.value.state == JobState.PENDING
