"""What the tests of kept schedules on the page share: a schedule, and calls of the API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
from visitors import bearer

from millhand.core.args.codec import RawArgs
from millhand.core.insert_opts import InsertOpts
from millhand.core.schedule import JobSchedule

FAR = datetime(2999, 1, 1, tzinfo=UTC)
NIGHTLY = JobSchedule(
    id="report/a:b",
    args=RawArgs("report", '{"day":7,"password":"swordfish"}'),
    cron="0 3 * * *",
    timezone="Europe/Berlin",
    opts=InsertOpts(queue="media"),
)


async def post(browser: httpx.AsyncClient, path: str, user: str = "admin", **fields: Any) -> tuple[int, str]:
    """Return the status of a change by the API, and what is wrong."""
    answer = await browser.post(f"/api/v1/schedules{path}", json=fields, headers=bearer(user))
    return answer.status_code, answer.json().get("detail", "")


async def listed(browser: httpx.AsyncClient, user: str = "admin", **query: str) -> dict[str, Any]:
    answer = await browser.get("/api/v1/periodic", params=query, headers=bearer(user))
    assert answer.status_code == 200, answer.text
    schedules: dict[str, Any] = answer.json()["schedules"]
    return schedules
