"""Changes of the selected jobs of a list."""

from __future__ import annotations

import httpx
import pytest

from factory import insert_job
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.audit import audit_list

API = "/api/v1"


async def _audited(driver: AsyncpgDriver) -> list[tuple[str, str, int]]:
    entries = await driver.pool.run(audit_list())
    return [(entry.action, entry.subject, entry.num_jobs) for entry in entries]


async def test_selected_jobs_are_changed_one_by_one(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A job that cannot be changed is left with its reason, and the others are changed."""
    first = await insert_job(schema_driver.pool, JobState.COMPLETED)
    running = await insert_job(schema_driver.pool, JobState.RUNNING)
    last = await insert_job(schema_driver.pool, JobState.DISCARDED)

    answer = await browser.post(
        f"{API}/jobs/selected/delete", json={"ids": [first.id, running.id, last.id, 987654]}
    )

    assert answer.json()["ids"] == [first.id, last.id]
    assert answer.json()["skipped"] == {
        str(
            running.id
        ): f"job must not be running to be deleted, got job {running.id} running; cancel it first",
        "987654": "job must exist, found none with id 987654",
    }
    assert await _audited(schema_driver) == [("delete", "selected jobs", 2)]


@pytest.mark.slow
async def test_cancel_separates_jobs_that_end_run_and_wait(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Of selected jobs, one that has ended is left, a running one is asked to stop, and all are locked by id."""
    ended = await insert_job(schema_driver.pool, JobState.COMPLETED)
    running = await insert_job(schema_driver.pool, JobState.RUNNING)
    waiting = await insert_job(schema_driver.pool, JobState.AVAILABLE)

    answer = await browser.post(
        f"{API}/jobs/selected/cancel", json={"ids": [waiting.id, running.id, ended.id, waiting.id]}
    )
    await browser.post(f"/jobs/{running.id}/cancel", data={"return_to": "/jobs"})
    page = (await browser.get("/jobs")).text

    assert (answer.json()["ids"], answer.json()["stopping"]) == ([running.id, waiting.id], [running.id])
    assert answer.json()["skipped"] == {
        str(ended.id): f"job must not be finalized to be cancelled, got job {ended.id} completed"
    }
    assert f"Asked to stop: job {running.id}." in page
    entries = await schema_driver.pool.run(audit_list())
    assert [(one.subject, one.num_jobs, one.detail) for one in entries] == [
        (f"job {running.id}", 1, {"stopping": [running.id]}),
        (
            "selected jobs",
            2,
            {"ids": [running.id, waiting.id], "skipped": [str(ended.id)], "stopping": [running.id]},
        ),
    ]


async def test_retry_that_finds_its_unique_key_taken_is_left(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A selected job whose unique key another job holds stays as it is, and the next one is retried."""
    key = {"unique_key": b"k", "unique_states": 0b1111_0101}
    await insert_job(schema_driver.pool, JobState.AVAILABLE, **key)
    blocked = await insert_job(schema_driver.pool, JobState.DISCARDED, **key)
    free = await insert_job(schema_driver.pool, JobState.DISCARDED)

    answer = await browser.post(f"{API}/jobs/selected/retry", json={"ids": [blocked.id, free.id]})

    assert answer.json()["ids"] == [free.id]
    assert list(answer.json()["skipped"]) == [str(blocked.id)]
