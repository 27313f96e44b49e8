"""Claims about kept schedules on the page of periodic jobs."""

from __future__ import annotations

import html
from datetime import timedelta

import httpx
import pytest
from kept_pages import FAR, NIGHTLY, listed, post
from visitors import USERS, bearer

from factory import insert_job, qualified
from kept_schedules import NOON, put, schedule
from millhand.core.clock import SystemClock
from millhand.core.job import JobId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.doctor.periodic_figures import load_runs
from millhand.schedules.control import ScheduleControl, declare_schedules
from millhand.schedules.store import schedule_set_last_job
from millhand.shells.web.database import WebDatabase
from millhand.web import WebConfig, dashboard

HOUR = timedelta(hours=1)
ON_MARS = """
UPDATE /* schema */millhand_schedule SET definition = replace(definition::text, 'Europe/Berlin', 'Mars/Dome')::json
"""


async def test_page_lists_schedules_with_their_last_runs(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Each has its times, next run and last job; one that differs from its code says so, and no run is estimated."""
    pool = schema_driver.pool
    await declare_schedules(pool, [NIGHTLY, schedule("changed")])
    await ScheduleControl(schema_driver).set(schedule("changed", interval=HOUR))
    await ScheduleControl(schema_driver).pause("changed")
    ran = (await ScheduleControl(schema_driver).run_now(NIGHTLY.id)).job
    await pool.run(schedule_set_last_job("changed", JobId(987_654)))

    page = await listed(browser)
    data = (await browser.get("/api/v1/periodic")).json()
    text = html.unescape((await browser.get("/periodic")).text)

    names = ("id", "cron", "interval", "last_job_id", "last_state", "num_runs", "is_as_declared")
    assert [tuple(line[name] for name in names) for line in page["lines"]] == [
        ("changed", None, "PT3600S", 987_654, None, 1, False),
        ("report/a:b", "0 3 * * *", None, ran.id, "available", 1, True),
    ]
    assert page["lines"][0]["paused_at"] is not None
    assert data["jobs"] == []
    assert "0 3 * * * Europe/Berlin" in text
    assert f'href="/jobs/{ran.id}"' in text
    assert "/schedules/report/a%3Ab/pause" in text


async def test_page_shows_one_schedule_and_its_next_instants(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Args that a rule hides are neither shown nor in the form; an unknown id is not found."""
    await put(schema_driver.pool, NIGHTLY, next_run_at=FAR)
    app = dashboard(schema_driver, WebConfig(users=USERS, hide=["args.password"]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        hidden = await listed(http, schedule=NIGHTLY.id)
        hiding = (await http.get("/periodic?schedule=report/a:b", headers=bearer("admin"))).text
    shown = (await listed(browser, schedule=NIGHTLY.id))["shown"]
    missing = await browser.get("/api/v1/periodic?schedule=nothing")

    assert shown["args"] == '{"day":7,"password":"swordfish"}'
    assert len(shown["next_instants"]) == 5
    assert shown["next_instants"][0] == "2999-01-01T00:00:00Z"
    assert (hidden["shown"]["args"], "swordfish" in hiding, "The args stay" in hiding) == (None, False, True)
    assert (missing.status_code, missing.json()["detail"]) == (
        404, "schedule must exist, found none with name 'nothing'",
    )  # fmt: skip


@pytest.mark.slow
async def test_page_works_without_readable_schedules(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A time zone that this machine does not know is named; without the table, a change says what to run."""
    pool = schema_driver.pool
    await put(pool, NIGHTLY, next_run_at=FAR)
    await pool.fetch(qualified(ON_MARS, pool))
    fault = (await listed(browser))["fault"]
    text = (await browser.get("/periodic")).text
    await pool.fetch(qualified("ALTER TABLE /* schema */millhand_schedule RENAME TO hidden_schedule", pool))
    try:
        app = dashboard(schema_driver, WebConfig(users=USERS))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
            page = (await http.get("/api/v1/periodic", headers=bearer("viewer"))).json()
            refused = await post(http, "/x1/pause")
    finally:  # other tests use the schema again
        await pool.fetch(
            qualified("ALTER TABLE /* schema */hidden_schedule RENAME TO millhand_schedule", pool)
        )

    assert "Mars/Dome" in fault
    assert "The schedules cannot be read" in text
    assert page["schedules"] is None
    assert refused == (
        409, "schedules must have their table, which is not there or not yours; run millhand migrate up",
    )  # fmt: skip


@pytest.mark.slow
async def test_pages_of_schedules_follow_each_other(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A hundred schedules are on a page; the next page begins after its last one."""
    await put(schema_driver.pool, *(schedule(f"tenant-{n:03}") for n in range(101)), next_run_at=FAR)

    first = await listed(browser)
    last = await listed(browser, after=first["after"])
    text = (await browser.get("/periodic")).text

    assert (len(first["lines"]), first["after"]) == (100, "tenant-099")
    assert ([line["id"] for line in last["lines"]], last["after"]) == (["tenant-100"], None)
    assert "More schedules" in text


async def test_a_kept_schedule_looks_late_only_if_it_is(schema_driver: AsyncpgDriver) -> None:
    """Its runs say nothing of a pause or of other times: only one that was due a minute ago counts by them."""
    pool = schema_driver.pool
    await put(pool, schedule("paused"), schedule("late"), next_run_at=NOON)
    await put(pool, schedule("later"), next_run_at=FAR)
    await ScheduleControl(schema_driver).pause("paused")
    for id in ("paused", "late", "later", "periodic"):
        await insert_job(pool, metadata=f'{{"periodic": true, "river:periodic_job_id": "{id}"}}')

    found = await load_runs(WebDatabase(schema_driver, SystemClock(), is_owner=False))

    assert sorted(run.periodic_job_id for run in found) == ["late", "periodic"]
