from __future__ import annotations

import logging

import httpx
import pytest
from visitors import USERS, bearer

from factory import get_job, insert_job
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web import WebConfig, dashboard


async def test_change_is_logged_once_it_is_made(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has who did what to which job; a change that failed is not logged as made."""
    caplog.set_level(logging.INFO, "millhand.shells.web")
    job = await insert_job(schema_driver.pool, JobState.COMPLETED)

    await browser.post(f"/jobs/{job.id}/snooze", data={"seconds": "5"})
    await browser.post(f"/jobs/{job.id}/retry")

    made = [record for record in caplog.records if record.msg == "change made"]
    assert [(one.action, one.subject, one.num_jobs) for one in made] == [("retry", f"job {job.id}", 1)]  # type: ignore[attr-defined]


async def test_change_without_an_audit_table_needs_one_connection(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """In a database without the audit table, a change is made on the connection of its transaction alone."""
    job = await insert_job(schema_driver.pool, JobState.COMPLETED)
    small = AsyncpgDriver(postgres_url, schema_driver.schema, pool_size=1)
    app = dashboard(small, WebConfig(users=USERS))
    table = f'"{schema_driver.schema}".millhand_audit'
    await schema_driver.pool.fetch(f"ALTER TABLE {table} RENAME TO millhand_audit_away")
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as client:
            answer = await client.post(f"/api/v1/jobs/{job.id}/retry", headers=bearer("operator"))
    finally:
        await schema_driver.pool.fetch(f"ALTER TABLE {table}_away RENAME TO millhand_audit")
        await app.stop()

    assert answer.json()["ids"] == [job.id]
    assert (await get_job(schema_driver.pool, job.id)).state is JobState.AVAILABLE
