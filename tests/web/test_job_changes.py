from __future__ import annotations

import httpx

from factory import get_job, insert_job
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.job import JobState


async def test_form_changes_a_job_and_leads_back(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A form changes the job, and leads back to the page that it came from with a notice."""
    job = await insert_job(schema_driver.pool, JobState.DISCARDED)
    path = f"/jobs/{job.id}"

    answer = await browser.post(f"{path}/retry", data={"return_to": path})

    assert (answer.status_code, answer.headers["location"]) == (303, path)
    assert (await get_job(schema_driver.pool, job.id)).state is JobState.AVAILABLE
    assert f"Retried job {job.id}." in (await browser.get(path)).text
