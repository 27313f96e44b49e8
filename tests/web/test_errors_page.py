from __future__ import annotations

from typing import Any

import httpx
from visitors import USERS, bearer

from millhand.driver.asyncpg import AsyncpgDriver
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
