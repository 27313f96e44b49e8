from __future__ import annotations

import re

import httpx
import pytest
from visitors import USERS, bearer

from dropped_indexes import dropped_indexes
from factory import insert_job
from millhand import ConfigError
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.bulk_change import bulk_change_get
from millhand.web import WebConfig, dashboard

API = "/api/v1/jobs"


async def test_search_finds_jobs_and_counts_each_state(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A search shows the jobs that match; the tabs count the states of its other tokens, and lead to them."""
    pool = schema_driver.pool
    found = await insert_job(pool, JobState.DISCARDED, queue="mail", args='{"to": "ann"}')
    await insert_job(pool, JobState.AVAILABLE, queue="mail")
    await insert_job(pool, JobState.DISCARDED)

    page = (await browser.get(API, params={"q": "queue:mail state:discarded"})).json()

    assert [job["id"] for job in page["jobs"]] == [found.id]
    assert [token["without"] for token in page["tokens"]] == ["state:discarded", "queue:mail"]
    tabs = {tab["state"]: tab for tab in page["tabs"]}
    assert (tabs["discarded"]["num_jobs"], tabs["available"]["num_jobs"], tabs[None]["num_jobs"]) == (1, 1, 2)
    assert (tabs["discarded"]["is_current"], tabs["available"]["search"]) == (
        True,
        "state:available queue:mail",
    )


async def test_search_of_args_without_index_says_so(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """Without the index of args, a search reads jobs in order, finds the same, and names what has no index."""
    found = await insert_job(schema_driver.pool, args='{"to": "ann"}')
    query = {"q": "args.to:ann queue:default"}
    before = (await browser.get(API, params=query)).json()
    async with dropped_indexes(schema_driver.pool):
        after = (await browser.get(API, params=query)).json()

    assert [[job["id"] for job in page["jobs"]] for page in (before, after)] == [[found.id]] * 2
    assert (before["unindexed"], after["unindexed"]) == ([], ["args"])


@pytest.mark.slow
async def test_views_of_the_settings_are_linked(schema_driver: AsyncpgDriver) -> None:
    """A view is a link with its name, marked where it is shown; users with limits see none."""
    views = {"failed <mails>": "queue:mail state:discarded", "all": ""}
    app = dashboard(schema_driver, WebConfig(users=USERS, views=views))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as http:
        page = (await http.get("/jobs?q=state:discarded queue:mail", headers=bearer("viewer"))).text
        limited = (await http.get("/jobs", headers=bearer("other"))).text

    assert re.findall(r'aria-current="true">(failed[^<]*)</a>', page) == ["failed &lt;mails&gt;"]
    assert "failed" not in limited
    with pytest.raises(
        ConfigError, match=r"view 'x' must be a search, got 'atempt:5': .*did you mean attempt:?"
    ):
        WebConfig(views={"x": "atempt:5"})
    with pytest.raises(
        ConfigError, match=r"view 'x' must be a search, .* must not be a value that is hidden"
    ):
        WebConfig(views={"x": "args.password:a"}, hide=["args.password"])


@pytest.mark.slow
async def test_times_of_a_search_are_in_the_zone_of_the_page(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A clock time of a search is the one that the page shows, and a bulk change of the search keeps the zone."""
    job = await insert_job(schema_driver.pool)  # inserted at 2024-05-01 10:34:56 UTC
    search, zone = "created:2024-05-01T12:34", {"Cookie": "millhand_zone=Europe/Berlin"}

    in_utc = await browser.get("/api/v1/jobs", params={"q": search})
    in_berlin = await browser.get("/api/v1/jobs", params={"q": search}, headers=zone)
    page = await browser.get(f"/jobs/{job.id}", headers=zone)
    bulk = await browser.post("/bulk", data={"action": "retry", "q": search}, headers=zone)
    change = await schema_driver.pool.run(
        bulk_change_get(int(bulk.headers["location"].removeprefix("/bulk/")))
    )

    assert [found["id"] for found in in_utc.json()["jobs"]] == []
    assert [found["id"] for found in in_berlin.json()["jobs"]] == [job.id]
    assert ">2024-05-01 12:34:56 CEST</time>" in page.text
    assert 'Times in <span class="zone">Europe/Berlin</span>' in page.text
    assert change is not None
    assert change.time_zone == "Europe/Berlin"


async def test_invalid_search_finds_nothing_and_says_why(browser: httpx.AsyncClient) -> None:
    """A token with a typing error is a problem with a near match, and the page is answered all the same."""
    page = await browser.get(API, params={"q": "stat:discarded"})
    html = await browser.get("/jobs", params={"q": "stat:discarded"})

    [problem] = page.json()["problems"]
    assert "state" in problem
    assert (page.status_code, page.json()["jobs"]) == (200, [])
    assert 'role="alert"' in html.text


@pytest.mark.parametrize("path", ["/jobs", "/jobs.csv", "/suggestions"])
async def test_search_that_is_too_long_is_refused(browser: httpx.AsyncClient, path: str) -> None:
    """A list of 5,000 ids is an invalid request, for the page, an export and suggestions, and for a bulk change."""
    line = " ".join(map(str, range(5_000)))

    answers = [
        await browser.get(f"/api/v1{path}", params={"q": line}),
        await browser.post("/api/v1/bulk", json={"action": "retry", "q": line}),
    ]

    assert [(answer.status_code, answer.json()["detail"]) for answer in answers] == [
        (
            400,
            "search must have at most 8,000 characters, got 23,889; search for fewer values, or for a range",
        )
    ] * 2


@pytest.mark.slow
async def test_cursor_leads_through_all_jobs(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The pages have each job once, newest first."""
    ids = [(await insert_job(schema_driver.pool)).id for _ in range(60)]
    seen: list[int] = []
    after: str | None = ""
    while after is not None:
        page = (await browser.get(API, params={"after": after})).json()
        seen += [job["id"] for job in page["jobs"]]
        after = page["after"]

    assert seen == ids[::-1]


async def test_invalid_cursor_is_refused(browser: httpx.AsyncClient) -> None:
    """A cursor that no list returned is an error that shows it."""
    answer = await browser.get(API, params={"after": "x"})

    assert answer.status_code == 400
    assert "'x'" in answer.json()["detail"]


async def test_new_job_form_has_the_values_of_the_job_that_is_copied(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A copy begins with kind, args, queue, priority, attempts and tags of its job."""
    job = await insert_job(schema_driver.pool, args='{"to": "ann"}', queue="mail", priority=3, tags=["eu1"])

    form = (await browser.get(f"{API}/new", params={"copy_of": job.id})).json()

    assert (form["kind"], form["args"], form["queue"]) == ("kind", '{"to": "ann"}', "mail")
    assert (form["priority"], form["max_attempts"], form["tags"], form["copy_of"]) == (3, 25, ["eu1"], job.id)


@pytest.mark.parametrize(("cursor", "status"), [("2", 200), ("x", 400), ("9999999", 400), ("", 200)])
async def test_suggestions_are_for_the_cursor(browser: httpx.AsyncClient, cursor: str, status: int) -> None:
    """What may stand at the cursor comes first; a cursor that is no number is an error."""
    answer = await browser.get("/api/v1/suggestions", params={"q": "st", "cursor": cursor})

    assert answer.status_code == status
    if status == 200:
        assert answer.json()["suggestions"][0]["text"] == "state:"
