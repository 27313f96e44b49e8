from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from visitors import USERS, bearer

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.history.job_stats import Step
from millhand.history.page import intervals_of
from millhand.history.series import RANGES
from millhand.web import WebConfig, dashboard

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ERROR = "ReadTimeout: <b>POST</b> https://hooks.example.net/7 gave no answer"


async def _json(browser: httpx.AsyncClient, path: str, **query: str) -> Any:
    answer = await browser.get(f"/api/v1{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "now", [NOON, NOON + timedelta(minutes=17, seconds=41), NOON + timedelta(minutes=10)]
)
def test_last_hour_is_read_by_ten_minutes_and_has_no_other_minute(now: datetime) -> None:
    """The intervals of the last hour are sixty minutes, each once, up to the present one; the first are single minutes."""
    intervals = intervals_of(RANGES[0], now)

    minutes = [
        start + n * MINUTE for step, starts in intervals for start in starts for n in range(int(step) // 60)
    ]
    hour = [Step.MINUTE.floor(now) - n * MINUTE for n in range(59, -1, -1)]
    assert [minute for minute in minutes if minute < now] == [minute for minute in hour if minute < now]
    assert len(intervals[0][1]) < 10


@pytest.mark.slow
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


async def test_unknown_range_is_refused(browser: httpx.AsyncClient) -> None:
    """A range that is not in the list is an error that names those that are."""
    answer = await browser.get("/api/v1/history", params={"range": "2h"})

    assert answer.json()["detail"] == "range must be one of 1h, 6h, 24h, 7d, 30d, 90d, got '2h'"
