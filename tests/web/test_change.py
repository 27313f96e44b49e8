from __future__ import annotations

import logging

import httpx
import pytest

from factory import insert_job
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.job import JobState


async def test_change_is_logged_once_it_is_made(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has who did what to which job; a change that failed is not logged as made."""
    caplog.set_level(logging.INFO, "millhand.web")
    job = await insert_job(schema_driver.pool, JobState.COMPLETED)

    await browser.post(f"/jobs/{job.id}/snooze", data={"seconds": "5"})
    await browser.post(f"/jobs/{job.id}/retry")

    made = [record for record in caplog.records if record.msg == "change made"]
    assert [(one.action, one.subject, one.num_jobs) for one in made] == [("retry", f"job {job.id}", 1)]  # type: ignore[attr-defined]
