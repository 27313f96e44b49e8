from __future__ import annotations

import json
from typing import Any

import httpx
from visitors import USERS, bearer

from factory import insert_job
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.job import JobState
from millhand.web import WebConfig, dashboard


async def _json(browser: httpx.AsyncClient, path: str, **query: str) -> Any:
    answer = await browser.get(f"/api/v1{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_errors_are_grouped_and_lead_to_their_jobs(
    browser: httpx.AsyncClient, counted: AsyncpgDriver
) -> None:
    """Two failures with one text are one group, whose search finds both jobs; its text is shown as text."""
    page = await _json(browser, "/errors", range="1h")
    html = (await browser.get("/errors")).text

    [group] = page["groups"]
    assert (group["kind"], group["num_errors"], group["title"]) == (
        "call_hook",
        2,
        "ReadTimeout: <b>POST</b> <url> gave no answer",
    )
    assert group["waiting"] == {"state": "retryable", "num_jobs": 1, "accuracy": "exact"}
    found = await _json(browser, "/jobs", q=group["search"])
    assert {job["state"] for job in found["jobs"]} == {"discarded", "retryable"}
    assert "<b>POST" not in html


async def test_errors_are_not_shown_while_a_rule_hides_values(counted: AsyncpgDriver) -> None:
    """An error may repeat a hidden value, so with a rule no group is in any answer."""
    app = dashboard(counted, WebConfig(users=USERS, hide=["args.token"]))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://page", headers=bearer("admin")
    ) as http:
        errors = (await http.get("/api/v1/errors")).json()
        overview = (await http.get("/api/v1/")).json()

    assert (errors["groups"], errors["is_hidden"], overview["errors"]) == ([], True, [])


async def test_jobs_that_wait_are_grouped_before_the_history_counts_them(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Right after an attempt failed, its job is in a group, by the text that other jobs share."""
    for number in (7, 8):
        error = json.dumps(
            {"at": "2026-11-27T10:00:00Z", "attempt": 1, "error": f"Timeout after {number} s", "trace": ""}
        )
        await insert_job(schema_driver.pool, JobState.RETRYABLE, kind="call_hook", errors=[error], attempt=1)

    page = await _json(browser, "/errors")
    overview = await _json(browser, "/")

    [group] = page["groups"]
    assert (group["title"], group["waiting"]["num_jobs"]) == ("Timeout after <number> s", 2)
    assert (group["num_errors"], group["last_seen_at"]) == (0, None)
    assert overview["errors"] == [group]
