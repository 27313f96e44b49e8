"""When an open page listens to the server, and when it does not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.async_api import Page, Request, expect

from factory import insert_job, qualified
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.job import JobRow, JobState
from millhand.web import Dashboard

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
