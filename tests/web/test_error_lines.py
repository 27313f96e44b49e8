from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from visitors import USERS, bearer

from factory import insert_job
from millhand.core.job import JobId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.history.error_group import ErrorCount, error_group_put_many
from millhand.history.fingerprint import group_of
from millhand.history.job_stats import Step
from millhand.web import UserConfig, WebConfig, dashboard
from millhand.web.credential import hashed_token


async def _json(browser: httpx.AsyncClient, path: str, **query: str) -> Any:
    answer = await browser.get(f"/api/v1{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
async def test_overview_has_the_groups_that_wait_and_those_of_the_users_kinds(
    schema_driver: AsyncpgDriver,
) -> None:
    """Behind more groups than the overview shows, one that waits has its errors, and a user of one kind sees that kind's."""
    pool, minute = schema_driver.pool, Step.MINUTE.floor(datetime.now(UTC))
    texts = {"it waits": ("act", 9), "it is mine": ("mine", 8)} | {
        f"new {name}": ("act", 2) for name in "abcdef"
    }
    await pool.run(
        error_group_put_many(
            [
                ErrorCount(
                    fingerprint=group_of(text).fingerprint,
                    kind=kind,
                    title=text,
                    sample_job_id=JobId(1),
                    began_at=minute - age * timedelta(minutes=1),
                    num_errors=3,
                )
                for text, (kind, age) in texts.items()
            ]
        )
    )
    error = json.dumps({"at": "2026-11-27T10:00:00Z", "attempt": 1, "error": "it waits", "trace": ""})
    for _ in range(10):
        await insert_job(pool, JobState.RETRYABLE, kind="act", errors=[error], attempt=1)
    users = {
        "all": UserConfig(token=hashed_token("all-token")),
        "mine": UserConfig(token=hashed_token("mine-token"), kinds=("mine",)),
    }
    app = dashboard(schema_driver, WebConfig(users=users))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        every, mine = [(await http.get("/api/v1/", headers=bearer(name))).json()["errors"] for name in users]

    assert [len(every), len(mine)] == [5, 1]
    assert (every[0]["title"], every[0]["waiting"]["num_jobs"], every[0]["num_errors"]) == ("it waits", 10, 3)
    assert (mine[0]["title"], mine[0]["num_errors"]) == ("it is mine", 3)
