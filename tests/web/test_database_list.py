"""Claims about the first page of several databases."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest
from several import browsing
from visitors import USERS

from factory import insert_job
from millhand.core.clock import SystemClock
from millhand.core.errors import ConnectionLost, MillhandError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.shells.web.database import WebDatabase
from millhand.web import Dashboard, WebConfig, dashboard, database_list

pytestmark = pytest.mark.slow

NUM_HOLES = 8


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The URL of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"postgresql://postgres@127.0.0.1:{server.getsockname()[1]}/shop?sslmode=disable"


async def test_list_has_each_database_with_its_verdict(
    several_page: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """One line a database in the order of the settings: its worst finding, its jobs, or that it does not answer."""
    await insert_job(schema_driver.pool, queue="mail")
    async with browsing(several_page) as http:
        html = await http.get("/")
        lines = (await http.get("/api/v1/databases")).json()["databases"]

    assert [(line["name"], line["state"]) for line in lines] == [
        ("production", "critical"),
        ("staging", "ok"),
        ("away", "unavailable"),
    ]
    assert lines[0]["counts"][0] == {"state": "available", "num_jobs": 1, "accuracy": "exact"}
    assert "mail" in lines[0]["text"]
    assert lines[1]["text"] is None
    assert "refused" in lines[2]["text"].lower()
    assert [html.text.count(f'href="/db/{line["name"]}/"') > 0 for line in lines] == [True] * 3


async def test_requests_that_wait_for_a_connection_fail_together() -> None:
    """While a database does not answer, requests share each attempt to connect instead of queueing for one of their own."""
    num_attempts, is_asked, may_end = 0, asyncio.Event(), asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_attempts
        num_attempts += 1
        is_asked.set()
        await may_end.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    driver = AsyncpgDriver(f"postgresql://postgres@127.0.0.1:{port}/shop?sslmode=disable")
    database = WebDatabase(driver, SystemClock())
    async with asyncio.TaskGroup() as group:
        opening = [group.create_task(_error_of(database)) for _ in range(10)]
        await is_asked.wait()
        may_end.set()
    server.close()

    assert {task.result() for task in opening} == {ConnectionLost}
    assert num_attempts == 1
    assert await _error_of(database) is not None  # the next request tries again


async def _error_of(database: WebDatabase) -> type[Exception] | None:
    try:
        await database.open()
    except MillhandError as error:
        return type(error)
    return None


async def test_user_sees_the_databases_of_their_settings(several_page: Dashboard) -> None:
    """A database that the user may not see is in no list, and its pages do not exist for the user."""
    async with browsing(several_page, "staging") as http:
        page = await http.get("/")
        listed = (await http.get("/api/v1/databases")).json()["databases"]
        found = {
            path: (await http.get(path)).status_code
            for path in (
                "/db/staging/jobs",
                "/db/production/jobs",
                "/db/production/api/v1/jobs",
                "/db/nowhere/jobs",
                "/jobs",
            )
        }
        refused = await http.get("/db/production/jobs")
        switch = (await http.get("/db/staging/jobs")).text

    assert [line["name"] for line in listed] == ["staging"]
    assert found == {"/db/staging/jobs": 200} | dict.fromkeys(list(found)[1:], 404)
    assert "production" not in page.text + refused.text + switch


async def test_list_is_live(several_page: Dashboard, staging_driver: AsyncpgDriver) -> None:
    """A job of one database changes the state of the list, which browsers compare."""
    async with browsing(several_page) as http:
        states = []
        for _ in range(2):
            states.append((await http.get("/api/v1/live-state")).json()["regions"]["databases"])
            await insert_job(staging_driver.pool)

    assert states[0] != states[1]


async def test_links_of_a_page_with_one_database_lead_to_the_first(several_page: Dashboard) -> None:
    """A bookmark from the time before `databases` opens in the first database; the API and changes must name theirs."""
    async with browsing(several_page) as http:
        old = await http.get("/jobs/7?a=b")
        api = await http.get("/api/v1/jobs/7")
        change = await http.post("/jobs/7/retry")

    assert (old.status_code, old.headers["location"]) == (307, "/db/production/jobs/7?a=b")
    assert (api.status_code, change.status_code) == (404, 404)


async def test_database_that_does_not_answer_delays_the_list_by_two_seconds(
    schema_driver: AsyncpgDriver, black_hole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list waits two seconds for all databases together, and the pages of the others do not wait."""
    monkeypatch.setattr(database_list, "ANSWER_SECONDS", 2.0)
    databases = {"shop": schema_driver} | {f"hole_{number}": black_hole for number in range(NUM_HOLES)}
    app = dashboard(databases=databases, config=WebConfig(users=USERS))
    async with browsing(app) as http:
        began = time.monotonic()
        asked = asyncio.ensure_future(http.get("/api/v1/databases"))
        await http.get("/db/shop/")
        is_waiting = not asked.done()
        lines = (await asked).json()["databases"]
        seconds = time.monotonic() - began

    assert [(line["state"], line["text"]) for line in lines] == [
        ("ok", None),
        *[("unavailable", "no answer within 2 s")] * NUM_HOLES,
    ]
    assert is_waiting
    assert 2 <= seconds < 2 * NUM_HOLES
