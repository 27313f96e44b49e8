from __future__ import annotations

import httpx
import pytest

from millhand.core.job import JobId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.bulk_change import (
    BulkAction,
    BulkState,
    bulk_change_collect,
    bulk_change_get,
    bulk_change_insert,
)


async def _collected(driver: AsyncpgDriver, number: int, action: BulkAction = BulkAction.RETRY) -> int:
    """Return the id of a change whose jobs are collected."""
    limits = {"only_queues": None, "only_kinds": None}
    insert = bulk_change_insert(
        action=action,
        search="state:discarded",
        time_zone="UTC",
        actor="ada",
        role="admin",
        address="",
        **limits,
    )
    change = await driver.pool.run(insert)
    ids = [JobId(id) for id in range(1, number + 1)]
    await driver.pool.run(bulk_change_collect(change, ids, collected_to=None, kinds={}, queues={}))
    return change.id


async def test_user_collects_the_jobs_of_a_search(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A form with an action and a search makes a change that has not touched a job, and leads to its page."""
    answer = await browser.post("/bulk", data={"action": "retry", "q": "kind:mail state:discarded"})

    id = int(answer.headers["location"].removeprefix("/bulk/"))
    change = await schema_driver.pool.run(bulk_change_get(id))
    assert (change.action, change.search, change.actor) == (
        BulkAction.RETRY,
        "kind:mail state:discarded",
        "admin",
    )
    assert change.started_at is None


async def test_large_change_needs_its_number(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Above 1,000 jobs their number must be typed, and a change that is running cannot be started again."""
    path = f"/bulk/{await _collected(schema_driver, 1001)}"

    page = (await browser.get(path)).text
    refused = await browser.post(f"/api/v1{path}/start", json={"confirm": "1000"})
    started = await browser.post(f"/api/v1{path}/start", json={"confirm": "1,001", "jobs_per_second": 1})
    again = await browser.post(f"/api/v1{path}/start", json={"confirm": "1001"})

    assert "Type 1001 to confirm" in page
    assert refused.json()["detail"] == "confirm must be the number of jobs, 1001, got '1000'"
    assert (started.status_code, started.json()["path"]) == (200, path)
    assert again.status_code in (400, 409)


async def test_pace_beyond_the_highest_is_refused(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A pace whose first digits alone are within the limit does not start the change."""
    id = await _collected(schema_driver, 3)

    answer = await browser.post(
        f"/api/v1/bulk/{id}/start", json={"jobs_per_second": "000000001" + "99999999"}
    )

    assert answer.status_code == 400
    assert answer.json()["detail"] == (
        "jobs_per_second must be a number from 1 to 100,000, got '00000000199999999'"
    )
    assert (await schema_driver.pool.run(bulk_change_get(id))).state is BulkState.READY


async def test_change_is_stopped_and_goes_on(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A stop keeps what is done and names who stopped; a start goes on."""
    id = await _collected(schema_driver, 3)
    path = f"/api/v1/bulk/{id}"

    await browser.post(f"{path}/stop")
    stopped = await schema_driver.pool.run(bulk_change_get(id))
    started = await browser.post(f"{path}/start")

    assert (stopped.state, stopped.stop_reason) == (BulkState.STOPPED, "stopped by admin")
    assert started.status_code == 200


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"action": "explode", "q": ""}, "action must be retry, cancel or delete, got 'explode'"),
        ({"action": "retry", "q": "attempt:many"}, "attempt must be a number"),
        (
            {"action": "retry", "q": "", "time_zone": "Mars"},
            "time_zone must be the name of a time zone such as Europe/Berlin, got 'Mars'",
        ),
    ],
)
async def test_invalid_bulk_change_is_refused(
    browser: httpx.AsyncClient, fields: dict[str, str], detail: str
) -> None:
    """An action, a search or a zone that is invalid is an error that names it, and nothing begins."""
    answer = await browser.post("/api/v1/bulk", json=fields)

    assert answer.status_code == 400
    assert detail in answer.json()["detail"]
    assert (await browser.get("/api/v1/bulk")).json()["changes"] == []
