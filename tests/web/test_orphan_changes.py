"""Claims about a run of the orphan cleanup before its time."""

from __future__ import annotations

import json

import httpx
import pytest
from visitors import bearer

from factory import get_job, insert_job
from millhand.core.job import JobId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.audit import audit_list

RUN = "/api/v1/orphans/run"
PERIODIC = json.dumps({"periodic": True, "river:periodic_job_id": "orphan_cleanup"})


async def ran(driver: AsyncpgDriver, state: JobState = JobState.COMPLETED) -> JobId:
    """Insert a run as the leader does, in the queue of its worker."""
    job = await insert_job(driver.pool, state, kind="orphan_cleanup", queue="media", metadata=PERIODIC)
    return job.id


async def test_operator_runs_the_cleanup_once(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A run is inserted into the queue of the last one, with an audit entry; a second one is refused until it has ended."""
    await ran(schema_driver)

    answer = await browser.post("/orphans/run", headers=bearer("operator"))
    again = await browser.post(RUN, headers=bearer("operator"))

    id = int(answer.headers["location"].removeprefix("/jobs/"))
    job = await get_job(schema_driver.pool, JobId(id))
    assert (job.kind, job.queue, job.state, job.encoded_args) == (
        "orphan_cleanup",
        "media",
        JobState.AVAILABLE,
        "{}",
    )
    assert (again.status_code, f"job {id}" in again.json()["detail"]) == (409, True)
    entries = await schema_driver.pool.run(audit_list())
    assert [(one.actor, one.action, one.subject) for one in entries] == [("operator", "run", f"job {id}")]


@pytest.mark.parametrize(
    ("state", "user", "status"),
    [(JobState.RUNNING, "admin", 409), (JobState.COMPLETED, "other", 404), (None, "admin", 404)],
)
async def test_run_is_refused(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, state: JobState | None, user: str, status: int
) -> None:
    """No run is inserted beside the worker's own, for a user with limits, or where no worker has ever run the cleanup."""
    if state is not None:
        await ran(schema_driver, state)

    assert (await browser.post(RUN, headers=bearer(user))).status_code == status
    assert await schema_driver.pool.run(audit_list()) == []
