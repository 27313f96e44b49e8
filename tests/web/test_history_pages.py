from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from visitors import USERS, bearer

from factory import insert_job, qualified
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.job import JobState
from millhand.maintenance.history_writer import HistoryWriter
from millhand.testing import ManualClock
from millhand.web import WebConfig, dashboard

MINUTE = timedelta(minutes=1)
ERROR = "ReadTimeout: <b>POST</b> https://hooks.example.net/7 gave no answer"


@pytest.fixture
async def counted(schema_driver: AsyncpgDriver) -> AsyncpgDriver:
    """A schema in whose last minute three jobs completed and two failed, as the leader has counted them."""
    pool = schema_driver.pool
    [row] = await pool.fetch("SELECT date_trunc('minute', now() - interval '10 seconds') AS ended")
    ended: datetime = row["ended"]
    at = ended - MINUTE / 2
    begin = (
        "INSERT INTO /* schema */millhand_history (holder, expires_at, counted_to) VALUES ('me', now(), $1)"
    )
    await pool.fetch(qualified(begin, pool), [ended - MINUTE])
    times = {"attempted_at": at - MINUTE / 60, "scheduled_at": at - MINUTE / 30, "attempt": 1}
    for _ in range(3):
        await insert_job(pool, JobState.COMPLETED, kind="send_mail", finalized_at=at, **times)
    error = {
        "at": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "attempt": 1,
        "error": ERROR,
        "trace": "",
    }
    for state, more in (
        (JobState.DISCARDED, {"finalized_at": at}),
        (JobState.RETRYABLE, {"scheduled_at": at + MINUTE}),
    ):
        columns = {**times, "errors": [json.dumps(error)], "kind": "call_hook", "queue": "hooks", **more}
        await insert_job(pool, state, **columns)
    await HistoryWriter(pool, clock=ManualClock(datetime.now(UTC)), holder="me").run_once()
    return schema_driver


async def _json(browser: httpx.AsyncClient, path: str, **query: str) -> Any:
    answer = await browser.get(f"/api/v1{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_history_has_the_attempts_of_the_last_hour(
    browser: httpx.AsyncClient, counted: AsyncpgDriver
) -> None:
    """The sums of the minutes are those of the jobs, for all and for one kind, and the kinds are listed."""
    page = await _json(browser, "/history")
    of_kind = await _json(browser, "/history", kind="call_hook")
    html = (await browser.get("/history")).text

    points = page["history"]["points"]
    assert len(points) > 50
    assert sum(point["completed"] for point in points) == 3
    assert sum(point["failed"] + point["discarded"] for point in points) == 2
    assert sum(point["completed"] for point in of_kind["history"]["points"]) == 0
    assert [(line["name"], line["num_attempts"]) for line in page["by_kind"]] == [
        ("send_mail", 3),
        ("call_hook", 2),
    ]
    assert "Attempts by outcome. completed" in html


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


async def test_overview_counts_live_jobs_and_shows_the_newest_errors(
    browser: httpx.AsyncClient, counted: AsyncpgDriver
) -> None:
    """The overview has the live jobs of all queues, the attempts of the hour, and the groups of errors."""
    page = await _json(browser, "/")

    counts = {count["state"]: (count["num_jobs"], count["accuracy"]) for count in page["counts"]}
    assert counts["retryable"] == (1, "exact")
    assert counts["available"] == (0, "exact")
    assert [group["num_errors"] for group in page["errors"]] == [2]
    assert sum(point["completed"] for point in page["history"]["points"]) == 3


async def test_user_with_limits_sees_no_history_of_others(counted: AsyncpgDriver) -> None:
    """A user of another queue gets no history, no error and no count of jobs beyond the limits."""
    app = dashboard(counted, WebConfig(users=USERS))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://page", headers=bearer("other")
    ) as http:
        overview = (await http.get("/api/v1/")).json()
        history = (await http.get("/api/v1/history")).json()
        errors = (await http.get("/api/v1/errors")).json()

    assert (overview["errors"], overview["queues"]) == ([], [])
    assert (history["by_kind"], history["by_queue"], errors["groups"]) == ([], [], [])
    for series in (overview["history"], history["history"]):
        assert series["total"]["completed"] + series["total"]["failed"] + series["total"]["discarded"] == 0


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


async def test_unknown_range_is_refused(browser: httpx.AsyncClient) -> None:
    """A range that is not in the list is an error that names those that are."""
    answer = await browser.get("/api/v1/history", params={"range": "2h"})

    assert answer.json()["detail"] == "range must be one of 1h, 6h, 24h, 7d, 30d, 90d, got '2h'"
