"""Claims about what users of the page change of dead letters."""

from __future__ import annotations

import httpx
import pytest
from visitors import bearer

from dead_jobs import dead_ids, delete_row, discard, put_dead_jobs
from factory import get_job, insert_job
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.audit import audit_list

API = "/api/v1/dead"


async def audited(driver: AsyncpgDriver) -> list[tuple[str, str, str, int]]:
    entries = await driver.pool.run(audit_list())
    return [(one.actor, one.action, one.subject, one.num_jobs) for one in entries]


@pytest.mark.slow
async def test_operator_retries_and_admin_deletes_a_dead_letter(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The job whose row was deleted is available again; a deletion takes a discarded row too. Both are audited."""
    pool = schema_driver.pool
    gone, kept = (await discard(pool)).id, (await discard(pool)).id
    await put_dead_jobs(pool)
    await delete_row(pool, gone)

    retried = await browser.post(f"/dead/{gone}/retry", headers=bearer("operator"))
    refused = await browser.post(f"/dead/{kept}/delete", headers=bearer("operator"))
    deleted = await browser.post(f"/dead/{kept}/delete")
    again = await browser.post(f"{API}/{kept}/retry")

    assert (retried.headers["location"], deleted.headers["location"]) == (f"/jobs/{gone}", "/dead")
    assert (refused.status_code, again.status_code) == (403, 404)
    assert again.json()["detail"] == f"dead letter must exist, found none with id {kept}"
    assert (await get_job(pool, gone)).state is JobState.AVAILABLE
    assert (await browser.get(f"/api/v1/jobs/{kept}")).status_code == 404
    assert await dead_ids(pool) == []
    assert await audited(schema_driver) == [
        ("admin", "delete", f"dead letter {kept}", 1),
        ("operator", "retry", f"dead letter {gone}", 1),
    ]


@pytest.mark.slow
async def test_selected_dead_letters_are_changed_one_by_one(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A letter that cannot be retried is left with its reason, the others are retried, and the notice counts them."""
    pool, key = schema_driver.pool, {"unique_key": b"key", "unique_states": 0b11110101}
    first, taken, last = [(await discard(pool, **columns)).id for columns in ({}, key, {})]
    running = (await insert_job(pool, JobState.RUNNING)).id
    await put_dead_jobs(pool)
    await delete_row(pool, taken)
    holder = await insert_job(pool, **key)
    ids = [first, taken, running, 987_654, last]

    answer = await browser.post("/dead/selected/retry", data={"ids": ids, "return_to": "/dead?kind=a"})
    notice = (await browser.get("/dead")).text

    assert answer.headers["location"] == "/dead?kind=a"
    assert (
        f"Retried 2 dead letters. Left 3 as they were: unique key must be free, got job {taken} in conflict"
        in notice
    )
    assert [(await get_job(pool, id)).state for id in (first, last, running, holder.id)] == [
        JobState.AVAILABLE, JobState.AVAILABLE, JobState.RUNNING, JobState.AVAILABLE,
    ]  # fmt: skip
    assert await dead_ids(pool) == [taken, running]
    assert await audited(schema_driver) == [("admin", "retry", "selected dead letters", 2)]


async def test_selected_dead_letters_are_deleted(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Their rows go too, except that of a job that was retried by other means."""
    pool = schema_driver.pool
    discarded, waiting = (await discard(pool)).id, (await insert_job(pool)).id
    await put_dead_jobs(pool)

    answer = await browser.post(f"{API}/selected/delete", json={"ids": [discarded, waiting]})

    assert answer.json()["ids"] == [discarded, waiting]
    assert await dead_ids(pool) == []
    assert (await browser.get(f"/api/v1/jobs/{discarded}")).status_code == 404
    assert (await get_job(pool, waiting)).state is JobState.AVAILABLE


async def test_user_with_limits_changes_no_other_dead_letter(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A dead letter of another queue is as one that does not exist."""
    pool = schema_driver.pool
    own, other = (await discard(pool, queue="other", kind="other")).id, (await discard(pool)).id
    await put_dead_jobs(pool)
    await delete_row(pool, own, other)

    missing = await browser.post(f"{API}/{other}/delete", headers=bearer("other"))
    selected = await browser.post(
        f"{API}/selected/retry", json={"ids": [own, other]}, headers=bearer("other")
    )

    detail = f"dead letter must exist, found none with id {other}"
    assert (missing.status_code, missing.json()["detail"]) == (404, detail)
    assert (selected.json()["ids"], selected.json()["skipped"]) == ([own], {str(other): detail})
    assert await dead_ids(pool) == [other]
