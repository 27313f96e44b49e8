"""Claims about what users of the page change of kept schedules."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from kept_pages import FAR, NIGHTLY, listed, post
from visitors import bearer

from factory import get_job
from kept_schedules import put, schedule
from millhand.core.args.codec import RawArgs
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobId
from millhand.core.schedule import JobSchedule
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.audit import audit_list
from millhand.schedules.control import ScheduleControl

FORM = {
    "schedule": "digest.acme", "kind": "digest", "args": '{"a": 1}', "cron": "", "timezone": "UTC", "interval": "90.5",
    "catch_up": "all", "overlap": "skip", "jitter": "30", "queue": "mail",
}  # fmt: skip


@pytest.mark.slow
async def test_operator_pauses_resumes_and_runs_a_schedule(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Each change has an audit entry; a run is inserted once, and `overlap` keeps the next one away until its end."""
    await put(schema_driver.pool, schedule("a/b:c", overlap="skip"), next_run_at=FAR)
    control, path = ScheduleControl(schema_driver), "/schedules/a%2Fb%3Ac"

    paused = await browser.post(f"{path}/pause", data={"return_to": "/periodic"}, headers=bearer("operator"))
    was_paused = (await control.get("a/b:c")).paused_at is not None
    ran = await browser.post(f"{path}/run", headers=bearer("operator"))
    again = await post(browser, "/a/b:c/run", "operator")
    resumed = await post(browser, "/a/b:c/resume", "operator")
    entries = await schema_driver.pool.run(audit_list())

    id = int(ran.headers["location"].removeprefix("/jobs/"))
    job = await get_job(schema_driver.pool, JobId(id))
    assert (paused.headers["location"], was_paused) == ("/periodic", True)
    assert (job.kind, job.metadata["millhand:run_now"]) == ("digest", True)
    refusal = f"the last run of schedule 'a/b:c' must have ended, got job {id} available; "
    assert again == (409, refusal + "wait for its end, or set overlap to allow")
    assert resumed == (200, "")
    assert (await control.get("a/b:c")).paused_at is None
    assert [(one.actor, one.action, one.subject) for one in entries] == [
        ("operator", "resume", "schedule a/b:c"),
        ("operator", "run", f"job {id}"),
        ("operator", "pause", "schedule a/b:c"),
    ]
    assert entries[1].detail == {"schedule": "a/b:c", "kind": "digest", "queue": "default"}


async def test_admin_adds_changes_and_removes_a_schedule(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The form's values are those of the schedule; a missing field stays, and the audit entry has no args."""
    control = ScheduleControl(schema_driver)

    added = await browser.post("/schedules", data=FORM)
    first = (await control.get("digest.acme")).schedule
    changed = await post(browser, "", schedule="digest.acme", cron="@daily", jitter="")
    second = (await control.get("digest.acme")).schedule
    entries = await schema_driver.pool.run(audit_list())
    removed = await post(browser, "/digest.acme/remove")
    again = await post(browser, "/digest.acme/remove")

    assert added.headers["location"] == "/periodic?schedule=digest.acme"
    assert first == JobSchedule(
        id="digest.acme",
        args=RawArgs("digest", '{"a":1}'),
        interval=timedelta(seconds=90.5),
        catch_up="all",
        overlap="skip",
        jitter=timedelta(seconds=30),
        opts=InsertOpts(queue="mail", priority=1, tags=()),
    )
    assert (changed, second.cron, second.interval, second.jitter, second.overlap) == (
        (200, ""), "@daily", None, timedelta(0), "skip",
    )  # fmt: skip
    assert second.args == first.args
    assert [(one.action, one.subject) for one in entries] == [("set", "schedule digest.acme")] * 2
    assert entries[1].detail == {"kind": "digest", "queue": "mail", "when": "every 1 min 30 s"}
    assert removed == (200, "")
    assert again == (404, "schedule must exist, found none with name 'digest.acme'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"kind": ""}, "kind must be given for a new schedule, got 'digest.acme' without"),
        ({"cron": "@daily"}, "cron or interval must be empty, got both"),
        ({"interval": "1e3"}, "interval must be a number of seconds, got '1e3'"),
        ({"interval": ""}, "schedule 'digest.acme': cron or interval must be set, got None and None"),
        ({"interval": "", "cron": "6 * *"}, "cron expression's number of fields must be 5, got 3 in '6 * *'"),
        ({"overlap": "never"}, "schedule 'digest.acme': overlap must be one of allow, skip, once_waiting, got 'never'"),
        ({"priority": "5"}, "priority must be a number from 1 to 4, got '5'"),
    ],
)  # fmt: skip
async def test_form_names_what_is_invalid(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, fields: dict[str, str], text: str
) -> None:
    """The error names the field, the rule and the value; nothing is stored or recorded."""
    assert await post(browser, "", **{**FORM, **fields}) == (400, text)
    assert await ScheduleControl(schema_driver).list() == []
    assert await schema_driver.pool.run(audit_list()) == []


async def test_user_with_limits_changes_no_other_schedule(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A schedule of another queue or kind is as one that does not exist; a change cannot move one out of the limits."""
    await put(schema_driver.pool, NIGHTLY, next_run_at=FAR)
    missing = (404, f"schedule must exist, found none with name {NIGHTLY.id!r}")
    yours = {"schedule": "own1", "kind": "other", "queue": "other", "cron": "@daily"}

    assert (await listed(browser, "other"))["lines"] == []
    for change in ("pause", "resume", "run", "remove"):
        assert await post(browser, f"/{NIGHTLY.id}/{change}", "other") == missing
    assert await post(browser, "", "other", **{**yours, "schedule": NIGHTLY.id}) == missing
    assert await post(browser, "", "other", **yours) == (200, "")
    assert await post(browser, "", "other", schedule="own1", queue="media") == (
        409, "kind and queue must be yours, got 'other' and 'media'",
    )  # fmt: skip
    assert [line["id"] for line in (await listed(browser, "other"))["lines"]] == ["own1"]
    assert (await ScheduleControl(schema_driver).get(NIGHTLY.id)).schedule.kind == "report"
