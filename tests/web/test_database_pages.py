"""Claims about the pages of one of several databases: each works on its own database, and says which it is."""

from __future__ import annotations

import re

import httpx
import pytest
from several import browsing
from visitors import PASSWORD

from factory import get_job, insert_job
from millhand.core.errors import ConnectionLost
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.translation import STANDBY
from millhand.engine.store.audit import audit_list
from millhand.web import Dashboard
from millhand.web.problem import problem_of

pytestmark = pytest.mark.slow


async def actors(driver: AsyncpgDriver) -> list[tuple[str, str]]:
    return [(entry.actor, entry.action) for entry in await driver.pool.run(audit_list(limit=9))]


async def test_change_is_made_and_recorded_in_its_database_only(
    several_page: Dashboard, schema_driver: AsyncpgDriver, staging_driver: AsyncpgDriver
) -> None:
    """A form of staging retries the job of staging, and its audit entry is there; the job with the same id is left."""
    there = await insert_job(staging_driver.pool, JobState.DISCARDED)
    here = await insert_job(schema_driver.pool, JobState.DISCARDED, id=there.id)
    async with browsing(several_page) as http:
        answer = await http.post(
            f"/db/staging/jobs/{there.id}/retry", data={"return_to": f"/jobs/{there.id}"}
        )
        shown = await http.get(answer.headers["location"])
        other = await http.get(f"/db/production/jobs/{here.id}")

    assert answer.headers["location"] == f"/db/staging/jobs/{there.id}"
    assert f"Retried job {there.id} in staging." in shown.text
    assert "Retried" not in other.text
    assert (await get_job(staging_driver.pool, there.id)).state is JobState.AVAILABLE
    assert (await get_job(schema_driver.pool, here.id)).state is JobState.DISCARDED
    assert (await actors(staging_driver), await actors(schema_driver)) == ([("admin", "retry")], [])


async def test_notice_of_one_database_is_not_shown_by_another(
    several_page: Dashboard, schema_driver: AsyncpgDriver, staging_driver: AsyncpgDriver
) -> None:
    """A browser with two tabs shows what happened in staging on a page of staging, once."""
    job = await insert_job(staging_driver.pool, JobState.DISCARDED)
    async with browsing(several_page) as http:
        await http.post(f"/db/staging/jobs/{job.id}/retry")
        pages = [
            (await http.get(path)).text
            for path in ("/db/production/queues", "/", "/db/staging/queues", "/db/staging/queues")
        ]

    assert [f"Retried job {job.id}" in page for page in pages] == [False, False, True, False]


async def test_description_of_the_api_is_that_of_the_database(several_page: Dashboard) -> None:
    """A program that reads the description of staging finds the paths below those of staging."""
    async with browsing(several_page) as http:
        described = (await http.get("/db/staging/api/v1/openapi.json")).json()

    assert described["servers"] == [{"url": "/db/staging"}]
    assert "/api/v1/jobs/{id}" in described["paths"]


async def test_role_is_that_of_the_database(
    several_page: Dashboard, schema_driver: AsyncpgDriver, staging_driver: AsyncpgDriver
) -> None:
    """An admin of staging who is a viewer of production deletes a job there, and is refused here."""
    there = await insert_job(staging_driver.pool, JobState.DISCARDED)
    here = await insert_job(schema_driver.pool, JobState.DISCARDED)
    async with browsing(several_page, "mixed") as http:
        answers = [
            (await http.post(f"/db/{name}/api/v1/jobs/{id}/delete")).status_code
            for name, id in (("staging", there.id), ("production", here.id), ("away", here.id))
        ]
        page = (await http.get(f"/db/production/jobs/{here.id}")).text
        site = (await http.get("/")).text

    assert "<span>mixed</span>" in site
    assert answers == [200, 403, 404]
    assert "mixed · viewer" in page
    assert await get_job(schema_driver.pool, here.id) == here


async def test_every_page_says_which_database_it_is(
    several_page: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """Title, color and switch name the database; each form and the question before a change do too; links stay below it."""
    job = await insert_job(schema_driver.pool, JobState.DISCARDED)
    async with browsing(several_page) as http:
        for path in (
            "/",
            "/jobs",
            f"/jobs/{job.id}",
            "/jobs/new",
            "/queues",
            "/audit",
            "/bulk",
            "/jobs/7777777",
        ):
            html = (await http.get(f"/db/production{path}")).text
            links = set(re.findall(r'(?:href|action|data-suggest)="(/[^"]*)"', html))
            forms = re.findall(r'<form[^>]* method="post".*?</form>', html, re.DOTALL)
            assert "· production · Millhand</title>" in html
            assert '<body class="in-red">' in html
            assert '<p class="where">in <b>production</b></p>' in html
            assert all("in production" in form for form in forms if "/logout" not in form), path
            others = {link for link in links if not re.match(r"/(db/production|static)/", link)}
            assert all(re.fullmatch(r"/|/logout|/db/(staging|away)/\w*", link) for link in others), others


async def test_switch_leads_to_the_same_page_of_the_other_database(several_page: Dashboard) -> None:
    """From the queues of production, the switch leads to those of staging; from a page of a job, to the list of jobs."""
    async with browsing(several_page) as http:
        queues = (await http.get("/db/production/queues")).text
        job = (await http.get("/db/production/jobs/7777777")).text
        new = (await http.get("/db/production/jobs/new")).text

    assert 'href="/db/staging/queues"' in queues
    assert 'href="/db/staging/"' in job  # it is missing, so the page is none of the jobs
    assert 'href="/db/staging/jobs"' in new


async def test_live_updates_are_those_of_the_database(
    several_page: Dashboard, schema_driver: AsyncpgDriver, staging_driver: AsyncpgDriver
) -> None:
    """A new job in staging changes the state of staging, and not that of production."""
    async with browsing(several_page) as http:
        paths = [f"/db/{name}/api/v1/live-state" for name in ("production", "staging")]
        before = [(await http.get(path)).json()["regions"]["jobs"] for path in paths]
        await insert_job(staging_driver.pool)
        after = [(await http.get(path)).json()["regions"]["jobs"] for path in paths]

    assert [first == second for first, second in zip(before, after, strict=True)] == [True, False]


async def test_bulk_change_runs_in_its_database(
    several_page: Dashboard, schema_driver: AsyncpgDriver, staging_driver: AsyncpgDriver
) -> None:
    """All that match in staging are retried, and no job of production."""
    there = [await insert_job(staging_driver.pool, JobState.DISCARDED) for _ in range(3)]
    here = await insert_job(schema_driver.pool, JobState.DISCARDED)
    async with browsing(several_page) as http:
        bulk = (
            await http.post("/db/staging/api/v1/bulk", data={"q": "state:discarded", "action": "retry"})
        ).json()
        path = f"/db/staging/api/v1{bulk['path']}"
        await _state(http, path, "ready")
        page = (await http.get(f"/db/staging{bulk['path']}")).text
        await http.post(f"{path}/start")
        await _state(http, path, "completed")

    assert "Retry 3 jobs in staging" in page
    states = {(await get_job(staging_driver.pool, job.id)).state for job in there}
    assert states == {JobState.AVAILABLE}
    assert (await get_job(schema_driver.pool, here.id)).state is JobState.DISCARDED


async def _state(http: httpx.AsyncClient, path: str, state: str) -> None:
    for _ in range(10_000):
        if (await http.get(path)).json()["change"]["state"] == state:
            return
    pytest.fail(f"the change is not {state}")


async def test_one_login_is_for_all_databases(several_page: Dashboard, staging_driver: AsyncpgDriver) -> None:
    """The login leads to the page that was asked for; its session and its token for forms count in each database."""
    job = await insert_job(staging_driver.pool, JobState.DISCARDED)
    async with browsing(several_page) as http:
        del http.headers["Authorization"]
        asked = await http.get("/db/staging/jobs?q=id:7")
        form = {"name": "ada", "secret": PASSWORD, "next": "/db/staging/jobs?q=id:7"}
        answer = await http.post("/login", data=form)
        page = (await http.get("/db/production/queues")).text
        [csrf] = set(re.findall(r'name="csrf" value="([^"]+)"', page))
        path = f"/db/staging/jobs/{job.id}/retry"
        statuses = [(await http.post(path, data={"csrf": token})).status_code for token in ("", csrf)]
        refused = await http.post("/db/staging/api/v1/jobs/insert")

    assert asked.headers["location"] == "/login?next=%2Fdb%2Fstaging%2Fjobs%3Fq%3Did%3A7"
    assert answer.headers["location"] == "/db/staging/jobs?q=id:7"
    assert statuses == [403, 303]
    assert refused.headers["content-type"] == "application/problem+json"


def test_standby_is_named_as_a_read_only_database() -> None:
    """An answer of a standby is no outage: the page says that the database is read-only, and how to name the primary."""
    problem = problem_of(ConnectionLost("leader_get", STANDBY, sqlstate="0A000"))

    assert (problem.title, problem.status) == ("The database is read-only", 503)
    assert "name the primary in the database URL" in problem.detail


async def test_database_that_is_away_is_an_error_of_its_own_pages(
    several_page: Dashboard, caplog: pytest.LogCaptureFixture
) -> None:
    """A page of a database that does not answer is 503 with its name on it, and is logged; pages of the others work."""
    async with browsing(several_page) as http:
        away = await http.get("/db/away/queues")
        json = await http.get("/db/away/api/v1/queues")
        other = await http.get("/db/staging/queues")

    assert (away.status_code, json.status_code, other.status_code) == (503, 503, 200)
    assert "· away · Millhand</title>" in away.text
    assert 'href="/db/staging/"' in away.text
    assert [(record.msg, record.path) for record in caplog.records if record.name == "millhand.web.app"] == [
        ("page request failed", "/db/away/queues"),
        ("page request failed", "/db/away/api/v1/queues"),
    ]
