"""Claims about the pages of queues, as a browser and a program see them."""

from __future__ import annotations

import httpx
import pytest
from page_rows import put_client
from visitors import bearer

from factory import insert_job
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.queue import queue_create_or_set_updated_at, queue_pause
from millhand.web import UserConfig, WebConfig, dashboard
from millhand.web.credential import hashed_token


async def test_queues_page_says_what_limits_each_queue(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """A queue with a client and a queue that only a job names are on the page, each with its jobs and its limit."""
    pool = schema_driver.pool
    await pool.run(queue_create_or_set_updated_at("mail"))
    await pool.run(queue_pause("mail"))
    await put_client(schema_driver, "a", ["act"], {"mail": 5})
    for queue in ("mail", "tpyo"):
        await insert_job(pool, queue=queue, kind="act")

    html = (await browser.get("/queues")).text
    queues = {queue["name"]: queue for queue in (await browser.get("/api/v1/queues")).json()["queues"]}

    assert {name: (one["limit"], one["slots"], one["clients"]) for name, one in queues.items()} == {
        "mail": ("paused", 5, ["a"]),
        "tpyo": ("no_client", 0, []),
    }
    assert "tpyo" in html


@pytest.mark.slow
async def test_queue_page_shows_kinds_clients_and_newest_jobs(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver
) -> None:
    """The page of a queue shows what is due by kind and whether a client works it, the clients, and the newest jobs."""
    await put_client(schema_driver, "a", ["act"], {"mail": 5})
    await put_client(schema_driver, "b", ["act"], {"other": 5})
    for state, kind in (
        (JobState.AVAILABLE, "act"),
        (JobState.AVAILABLE, "new"),
        (JobState.COMPLETED, "act"),
    ):
        await insert_job(schema_driver.pool, state, queue="mail", kind=kind)
    last = await insert_job(schema_driver.pool, JobState.RUNNING, queue="mail", attempted_by=["go"])

    page = (await browser.get("/api/v1/queues/mail")).json()
    html = await browser.get("/queues/mail")

    assert {one["kind"]: (one["num_due"], one["is_worked"]) for one in page["kinds"]} == {
        "act": (1, True),
        "new": (1, False),
    }
    assert [(one["id"], one["running"]) for one in page["clients"]] == [("a", {}), ("go", {"mail": 1})]
    assert (len(page["newest"]), page["newest"][0]["id"]) == (4, last.id)
    assert (html.status_code, f"/jobs/{last.id}" in html.text) == (200, True)


async def test_queue_that_nothing_names_is_not_found(browser: httpx.AsyncClient) -> None:
    """A queue without a row and without a job is 404."""
    assert (await browser.get("/queues/nothing")).status_code == 404


@pytest.mark.slow
async def test_user_of_one_queue_sees_it_behind_a_hundred_others(schema_driver: AsyncpgDriver) -> None:
    """Overview, queues, fleet and the form of a job know the user's queue, whose name comes after 101 others."""
    for queue in (*(f"a{number:03}" for number in range(101)), "zeta"):
        await insert_job(schema_driver.pool, queue=queue, kind="act")
    user = UserConfig(role="admin", token=hashed_token("zeta-token"), queues=("zeta", "nothing"))
    app = dashboard(schema_driver, WebConfig(users={"zeta": user}))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://page", headers=bearer("zeta")
    ) as browser:
        overview, queues, fleet, form = [
            (await browser.get(f"/api/v1{path}")).json() for path in ("/", "/queues", "/fleet", "/jobs/new")
        ]
        html = (await browser.get("/queues")).text

    assert overview["counts"][0] == {"state": "available", "num_jobs": 1, "accuracy": "exact"}
    assert [one["text"] for one in overview["verdict"]["findings"]] == [
        "No client works queue zeta, in which jobs are due."
    ]
    assert ([one["name"] for one in queues["queues"]], queues["after"]) == (["zeta"], None)
    assert [(one["queue"], one["kind"]) for one in fleet["unworked_kinds"]] == [("zeta", "act")]
    assert form["known_queues"] == ["zeta"]
    assert "/queues/zeta" in html
