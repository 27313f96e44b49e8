"""What a person on call does with the page: find a failed job, run it again, pause a queue, change many jobs."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from page_browser import GENEROUS_MILLISECONDS, PHONE, follow
from playwright.async_api import Locator, Page, expect
from shop_rows import fill_shop

from factory import get_job, insert_job, qualified
from millhand import Client, Config, Workers
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web import Dashboard

expect.set_options(timeout=GENEROUS_MILLISECONDS)
EVERYWHERE = pytest.mark.parametrize(
    "options",
    [{}, {"java_script_enabled": False}, {"viewport": PHONE, "is_mobile": True, "has_touch": True}],
    ids=["with JavaScript", "without JavaScript", "on a phone"],
)


@contextlib.asynccontextmanager
async def search_worker(driver: AsyncpgDriver) -> AsyncIterator[None]:
    """Work the jobs of queue `search` as if the cause of their failures was gone."""
    workers = Workers()

    @workers.add()
    async def index_product(product_id: int = 0, id: int = 0) -> None:
        pass

    config = Config(schema=driver.schema, queues={"search": 2}, workers=workers)
    async with Client(driver, config):
        yield


@EVERYWHERE
async def test_person_finds_a_failed_job_by_its_args_and_runs_it_again(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver, options: dict[str, Any]
) -> None:
    """From the overview alone: find a discarded job by a value of its args, see its error, retry it, see it completed."""
    await fill_shop(schema_driver.pool)
    page = await (await visit(own_shop, **options)).open("/")
    search = page.get_by_label("Search jobs")
    await search.fill("args.product_id:4711")
    await search.press("Enter")
    await page.get_by_role("link", name="index_product").first.click()
    await expect(page.get_by_text("connection refused").first).to_be_visible()
    await page.get_by_role("button", name="Retry now").click()
    await expect(page.get_by_text("Retried job 3.")).to_be_visible()
    state = page.locator("#state .st")
    async with search_worker(schema_driver):
        if "java_script_enabled" in options:
            while await state.text_content() != "completed":
                await page.reload()
        await expect(state).to_have_text("completed")


@EVERYWHERE
async def test_person_pauses_and_resumes_a_queue(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver, options: dict[str, Any]
) -> None:
    """A pause is confirmed where there is JavaScript; the page says since when the queue is paused, until it is resumed."""
    await fill_shop(schema_driver.pool)
    page = await (await visit(own_shop, **options)).open("/queues")
    await follow(page.get_by_role("link", name="mail"))
    await page.get_by_role("button", name="Pause").click()
    if options.get("java_script_enabled", True):
        await page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    await expect(page.get_by_text("Paused queue mail.")).to_be_visible()
    await expect(page.get_by_text("because the queue is paused")).to_be_visible()
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("Resumed queue mail.")).to_be_visible()
    await expect(page.get_by_role("button", name="Pause")).to_be_visible()


@EVERYWHERE
async def test_back_button_restores_the_search(visit: Any, options: dict[str, Any]) -> None:
    """The address says all of a list: back from a job, the search line and the rows are those from before."""
    page = await (await visit(**options)).open("/jobs?q=kind:send_email state:completed")
    rows = page.locator("[data-rows] tbody tr")
    before = [await row.get_attribute("id") for row in await rows.all()]
    await rows.nth(3).get_by_role("link").click()
    await page.wait_for_url("**/jobs/*")
    await page.go_back()
    await expect(rows).to_have_count(len(before))

    assert [await row.get_attribute("id") for row in await rows.all()] == before
    assert await page.get_by_label("Search jobs").input_value() == "kind:send_email state:completed"


async def test_selection_is_kept_by_a_live_update_and_retried(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """Selected rows stay selected, and the focus where it is, when new ones arrive; those and no others are retried."""
    old = [await insert_job(schema_driver.pool, JobState.DISCARDED) for _ in range(4)]
    page = await (await visit(own_shop)).open("/jobs?q=state:discarded")
    for job in old[1:3]:
        await page.get_by_label(f"Select job {job.id}").check()
    new = await insert_job(schema_driver.pool, JobState.DISCARDED)
    await expect(page.locator(f"#job-{new.id}")).to_be_visible()
    await expect(page.get_by_label(f"Select job {old[2].id}")).to_be_focused()
    selected = [job.id for job in old if await page.get_by_label(f"Select job {job.id}").is_checked()]
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_text("Retried 2 jobs.")).to_be_visible()
    states = [(await get_job(schema_driver.pool, job.id)).state.value for job in [*old, new]]

    assert selected == [job.id for job in old[1:3]]
    assert states == ["discarded", "available", "available", "discarded", "discarded"]


@EVERYWHERE
async def test_person_stops_a_change_of_many_jobs_half_way_and_goes_on(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver, options: dict[str, Any]
) -> None:
    """All that match are counted before any is changed; a stop says how many were, as the table has it; then the rest."""
    await fill_shop(schema_driver.pool)
    page = await (await visit(own_shop, **options)).open("/jobs?q=kind:import_feed state:available")
    await page.get_by_text("All that match").click()
    await page.get_by_role("button", name="Cancel …").click()
    state = page.locator("#bulk .tag")
    await until(page, state, "ready")
    before = await num_cancelled(schema_driver)
    await page.get_by_label("Jobs a second").fill("5")
    await page.get_by_role("button", name="Cancel 62 jobs").click()
    await until(page, state, "running")
    await page.get_by_role("button", name="Stop").click()
    await until(page, state, "stopped")
    text = await page.locator("#bulk").inner_text()
    changed = int(re.findall(r"(\d+) changed", text)[0])
    cancelled = await num_cancelled(schema_driver)
    await page.get_by_label("Jobs a second").fill("")
    await page.get_by_role("button", name=f"Cancel {62 - changed} job").click()
    await until(page, state, "completed")

    assert (before, cancelled) == (0, changed)
    assert changed < 62
    assert await num_cancelled(schema_driver) == 62


async def until(page: Page, state: Locator, name: str) -> None:
    """Wait until a bulk change is in a state. Without JavaScript a reader loads the page again."""
    async with asyncio.timeout(GENEROUS_MILLISECONDS / 1000):
        while await state.text_content() != name:
            await page.reload()


async def num_cancelled(driver: AsyncpgDriver) -> int:
    """Return how many imports are cancelled."""
    count = "SELECT count(*) FROM /* schema */river_job WHERE kind = 'import_feed' AND state = 'cancelled'"
    [row] = await driver.pool.fetch(qualified(count, driver.pool))
    return int(row["count"])
