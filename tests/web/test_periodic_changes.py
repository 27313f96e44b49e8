"""Claims about a run of a periodic job before its time, from the page."""

from __future__ import annotations

import html
import json

import httpx
import pytest
from visitors import USERS, bearer

from factory import get_job, insert_job
from millhand.core.job import JobId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.audit import audit_list
from millhand.web import WebConfig, dashboard


def marks(id: str) -> str:
    return json.dumps({"periodic": True, "river:periodic_job_id": id})


async def ran(driver: AsyncpgDriver, state: JobState = JobState.COMPLETED, id: str = "a/b c") -> JobId:
    """Insert a run as the leader does, in the queue of its worker."""
    args = '{"day": 7, "password": "swordfish"}'
    job = await insert_job(driver.pool, state, kind="report", args=args, queue="media", metadata=marks(id))
    return job.id


async def test_operator_runs_a_periodic_job_once(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The copy is in the queue of the last run, with an audit entry without args; a second one is refused until its end."""
    await ran(schema_driver)

    answer = await browser.post("/periodic/a%2Fb%20c/run", headers=bearer("operator"))
    again = await browser.post("/api/v1/periodic/a/b c/run", headers=bearer("operator"))

    id = int(answer.headers["location"].removeprefix("/jobs/"))
    job = await get_job(schema_driver.pool, JobId(id))
    assert (job.kind, job.queue, job.state, job.args["day"]) == ("report", "media", JobState.AVAILABLE, 7)
    assert (again.status_code, f"job {id}" in again.json()["detail"]) == (409, True)
    [entry] = await schema_driver.pool.run(audit_list())
    assert (entry.actor, entry.action, entry.subject) == ("operator", "run", f"job {id}")
    assert entry.detail == {"periodic_job": "a/b c", "kind": "report", "queue": "media"}


async def test_page_says_what_a_run_inserts(schema_driver: AsyncpgDriver) -> None:
    """The button names the copied job, its queue, kind and args without hidden values; a viewer has none."""
    id = await ran(schema_driver)
    await ran(schema_driver, JobState.RUNNING, "busy")
    app = dashboard(schema_driver, WebConfig(users=USERS, hide=["args.password"]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        page = html.unescape((await http.get("/periodic", headers=bearer("operator"))).text)
        viewed = (await http.get("/periodic", headers=bearer("viewer"))).text
        data = (await http.get("/api/v1/periodic", headers=bearer("viewer"))).json()

    assert f"copy of job {id} into queue media: kind report, args " in page
    assert page.count("Run now") == 1
    assert ("swordfish" in page, "Run now" in viewed) == (False, False)
    copies = {one["id"]: one["copy"] for one in data["jobs"]}
    assert copies["busy"] is None
    assert copies["a/b c"]["args"] == '{"day": 7, "password": "(hidden)"}'


@pytest.mark.slow
async def test_user_with_limits_runs_no_other_periodic_job(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A periodic job of another queue is as one that does not exist; no error names it."""
    await ran(schema_driver)

    answer = await browser.post("/api/v1/periodic/a/b c/run", headers=bearer("other"))
    typo = await browser.post("/api/v1/periodic/a/b cc/run", headers=bearer("other"))
    hint = await browser.post("/api/v1/periodic/a/b cc/run", headers=bearer("operator"))

    assert (answer.status_code, typo.status_code, hint.status_code) == (404, 404, 404)
    assert "did you mean" not in answer.json()["detail"] + typo.json()["detail"]
    assert answer.json()["detail"].endswith("insert it once: millhand job insert KIND '{…}'")
    assert hint.json()["detail"].endswith("found none with id 'a/b cc'; did you mean 'a/b c'?")
    assert await schema_driver.pool.run(audit_list()) == []
