"""When an open page listens to the server, and when it does not."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from page_browser import GENEROUS_MILLISECONDS
from page_server import shop_page
from playwright.async_api import Page, Request, expect

from factory import insert_job, qualified
from millhand.core.job import JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.queue import queue_create_or_set_updated_at
from millhand.web import Dashboard
from proxy import Proxy, proxied

ICON = "/static/icon.svg"  # a browser asks for it at any time after it has the page
NOW = datetime.now(UTC)
TRACE = 'Traceback (most recent call last):\n  File "/srv/shop/mail.py", line 7, in send\n    raise OSError\nOSError: no\n'


async def failed_job(driver: AsyncpgDriver) -> JobRow:
    return await insert_job(
        driver.pool,
        JobState.RETRYABLE,
        attempt=1,
        attempted_at=NOW - timedelta(minutes=1),
        errors=[failure(1)],
        scheduled_at=NOW + timedelta(hours=1),
    )


def failure(attempt: int) -> str:
    at = NOW - timedelta(minutes=9 - attempt)
    return json.dumps({"at": at.isoformat(), "attempt": attempt, "error": "OSError: no", "trace": TRACE})


async def test_open_page_polls_where_events_do_not_arrive(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """Behind a proxy that ends the event stream, the page asks every five seconds, and still shows what changes."""
    visitor = await visit(own_shop, expected={502})
    await visitor.context.route("**/live?*", lambda route: route.fulfill(status=502))
    page = await visitor.open("/queues")
    async with page.expect_response("**/live-state"):
        await expect(page.get_by_title("Live updates, every 5 s")).to_be_visible()
    await insert_job(schema_driver.pool, queue="mail")

    await expect(page.get_by_role("row", name="mail")).to_be_visible()


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[Proxy]:
    """A way to the database that a test can cut; it is there until the page has closed its connections."""
    async with proxied(postgres_url) as proxy:
        yield proxy


async def test_open_page_says_since_when_the_database_does_not_answer(
    proxy: Proxy, visit: Any, schema_driver: AsyncpgDriver
) -> None:
    """A page without a database is marked as old, for readers of the screen and of its status, until there is an answer."""
    page = await (await visit(shop_page(proxy.url, schema_driver.schema), expected={503})).open("/queues")
    live = page.get_by_role("button", name="Live updates")
    lost = page.get_by_role("button", name=re.compile(r"Not live: no answer since \d\d:\d\d:\d\d"))
    await expect(live).to_have_text("Live")
    proxy.cut()
    await expect(lost).to_have_text("Not live")
    await expect(page.locator("#status")).to_have_text(re.compile("^Not live: no answer since"))
    proxy.restore()
    await expect(live).to_have_text("Live", timeout=GENEROUS_MILLISECONDS * 3)
    await expect(page.locator("#status")).to_have_text("Live again")
    await insert_job(schema_driver.pool, queue="mail")

    await expect(page.get_by_role("row", name="mail")).to_be_visible()


async def test_update_that_fails_is_asked_for_again(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """A page whose update got no answer is marked, and shows the change although no other one follows."""
    page = await (await visit(own_shop, expected={503})).context.new_page()
    async with page.expect_response(lambda answer: "millhand-look" in answer.request.headers):
        await page.goto("/queues")
    await page.route("**/queues", lambda route: route.fulfill(status=503), times=1)
    await schema_driver.pool.run(queue_create_or_set_updated_at("mail"))
    await expect(page.get_by_role("button", name="Not live")).to_be_visible()

    row = page.get_by_role("row", name="mail")
    await expect(row).to_be_visible(timeout=GENEROUS_MILLISECONDS * 3)
    await expect(page.get_by_title("Live updates", exact=True)).to_be_visible()


async def test_polling_page_tries_events_again_after_a_minute(visit: Any, own_shop: Dashboard) -> None:
    """A page that asks every five seconds, because events did not arrive, listens again when they do."""
    visitor = await visit(own_shop, expected={502})
    await visitor.context.clock.install()
    await visitor.context.route("**/live?*", lambda route: route.fulfill(status=502))
    page = await visitor.open("/queues")
    await expect(page.get_by_title("Live updates, every 5 s")).to_be_visible()
    await visitor.context.unroute("**/live?*")
    async with page.expect_request("**/live?*"):
        await page.clock.fast_forward(60_000)

    await expect(page.get_by_title("Live updates", exact=True)).to_be_visible()


async def test_update_leaves_selected_text_alone(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """A text that the reader marks to copy it stays marked, while the page around it changes."""
    job = await failed_job(schema_driver)
    visitor = await visit(own_shop)
    page = await visitor.open(f"/jobs/{job.id}")
    await page.evaluate("getSelection().selectAllChildren(document.querySelector('#attempt-1 .what'))")
    await another_failure(schema_driver, job)
    await expect(page.locator("#attempt-2")).to_be_visible()

    assert await page.evaluate("getSelection().toString()") == "OSError no"


async def test_hidden_tab_does_not_listen(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """A tab in the background costs nothing: it ends its connection, and catches up when it is seen again."""
    visitor = await visit(own_shop)
    page = await visitor.open("/queues")
    asked: list[str] = []
    await show(page, is_hidden=True)
    page.on("request", lambda request: asked.append(path_of(request)))
    await insert_job(schema_driver.pool, queue="mail")
    await page.evaluate("new Promise((resolve) => setTimeout(resolve, 3000))")
    assert [path for path in asked if path != ICON] == []
    await show(page, is_hidden=False)

    await expect(page.get_by_role("row", name="mail")).to_be_visible()
    assert "/live" in asked


async def test_live_updates_are_switched_off(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """A reader who switches live updates off has none on the next page either, and gets all when switching on."""
    visitor = await visit(own_shop)
    page = await visitor.open("/queues")
    await page.get_by_role("button", name="Live updates").click()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(path_of(request)))
    await page.reload()
    await insert_job(schema_driver.pool, queue="mail")
    assert "/live" not in asked
    await page.get_by_role("button", name="Live updates", pressed=False).click()

    await expect(page.get_by_role("row", name="mail")).to_be_visible()


async def show(page: Page, *, is_hidden: bool) -> None:
    """Let the page believe that its tab is in the background, or in front again."""
    await page.evaluate(
        "(hidden) => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')) }",
        is_hidden,
    )


async def another_failure(driver: AsyncpgDriver, job: JobRow) -> None:
    sql = (
        "UPDATE /* schema */river_job SET attempt = 2, errors = errors || $2::jsonb, state = 'discarded',"
        " finalized_at = now() WHERE id = $1"
    )
    await driver.pool.fetch(qualified(sql, driver.pool), [job.id, failure(2)])


def path_of(request: Request) -> str:
    return "/" + request.url.split("/", 3)[3].partition("?")[0]
