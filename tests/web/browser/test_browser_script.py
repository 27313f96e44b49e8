"""What the page's own script adds: keys, dialogs, copies, and times in the reader's zone."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import expect

from factory import get_job, insert_job
from millhand.core.errors import NotFound
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web import Dashboard


async def test_change_is_confirmed_before_it_is_made(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """Delete asks first. Going back changes nothing, and the second answer deletes the job."""
    job = await insert_job(schema_driver.pool, JobState.DISCARDED)
    visitor = await visit(own_shop)
    page = await visitor.open(f"/jobs/{job.id}")
    dialog = page.get_by_role("dialog", name="Delete this job?")
    await page.get_by_role("button", name="Delete").click()
    await expect(dialog).to_be_visible()
    await dialog.get_by_role("button", name="Go back").click()
    await expect(dialog).to_be_hidden()
    await get_job(schema_driver.pool, job.id)
    await page.get_by_role("button", name="Delete").click()
    await dialog.get_by_role("button", name="Delete").click()
    await page.wait_for_url("**/jobs")

    await expect(page.get_by_text(f"Deleted job {job.id}.")).to_be_visible()
    with pytest.raises(NotFound):
        await get_job(schema_driver.pool, job.id)


async def test_keys_lead_to_pages_and_retry_a_job(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """By keys alone: the list of keys, another page, the search line, and a retry of the job that is open."""
    job = await insert_job(schema_driver.pool, JobState.DISCARDED)
    visitor = await visit(own_shop)
    page = await visitor.open("/")
    await page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    await expect(dialog).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    await page.keyboard.press("g")
    await page.keyboard.press("q")
    await page.wait_for_url("**/queues")
    await page.keyboard.press("/")
    await expect(page.get_by_label("Search jobs")).to_be_focused()
    await page.goto(f"/jobs/{job.id}")
    await page.keyboard.press("r")
    await expect(page.get_by_text(f"Retried job {job.id}.")).to_be_visible()

    assert (await get_job(schema_driver.pool, job.id)).state is JobState.AVAILABLE


async def test_times_are_in_the_zone_of_the_browser_or_in_utc(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """A reader in Kathmandu sees the time of Kathmandu, may change to UTC, and keeps that choice."""
    job = await insert_job(schema_driver.pool)  # inserted at 2024-05-01 10:34:56 UTC
    visitor = await visit(own_shop, timezone_id="Asia/Kathmandu")
    page = await visitor.open(f"/jobs/{job.id}")
    await expect(page.get_by_role("region", name="Facts")).to_contain_text("2024-05-01 16:19:56")
    await page.get_by_role("button", name="change").click()
    await expect(page.get_by_role("region", name="Facts")).to_contain_text("2024-05-01 10:34:56")
    await page.reload()

    await expect(page.get_by_role("region", name="Facts")).to_contain_text("2024-05-01 10:34:56")
    await expect(page.get_by_text("Times in UTC")).to_be_visible()


async def test_search_has_the_zone_of_the_browser_from_the_first_visit(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """Who opens the link of a search first sees the jobs of that time in the own zone, and by a button those in UTC."""
    job = await insert_job(schema_driver.pool)  # inserted at 2024-05-01 10:34:56 UTC
    visitor = await visit(own_shop, timezone_id="Asia/Kathmandu")
    page = await visitor.open("/jobs?q=created:2024-05-01T16:19")
    row = page.locator(f"#job-{job.id}")

    await expect(row).to_be_visible()
    await page.get_by_role("button", name="change").click()
    await expect(page.get_by_text("No job matches")).to_be_visible()
    await page.wait_for_load_state()  # the button is one of the script
    await page.get_by_role("button", name="change").click()
    await expect(row).to_be_visible()


async def test_args_are_copied(visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver) -> None:
    """The button beside the args puts them on the clipboard as they are shown."""
    job = await insert_job(schema_driver.pool, args='{"order_id": 184467440737095516150}')
    visitor = await visit(own_shop, permissions=["clipboard-read", "clipboard-write"])
    page = await visitor.open(f"/jobs/{job.id}")
    await page.get_by_role("region", name="Args").get_by_role("button", name="Copy").click()
    await expect(page.locator("#status")).to_have_text("Copied")  # the button says so for a second only

    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == '{\n  "order_id": 184467440737095516150\n}'


async def test_chart_shows_the_numbers_under_the_pointer(visit: Any) -> None:
    """The numbers beside the pointer are those of the table below the chart, for the same point."""
    visitor = await visit()
    # A live update at the end of a minute would change the table under the pointer.
    await visitor.context.add_init_script("try { localStorage.setItem('millhand-live', 'off') } catch {}")
    page = await visitor.open("/history")
    figure = page.locator("figure").first
    await figure.locator("svg").hover(position={"x": 3, "y": 20})
    first = figure.locator("tbody tr").first.locator("td").nth(1)

    await expect(page.locator(".tip")).to_be_visible()
    assert f"\n{await first.text_content()}  completed" in await page.locator(".tip").inner_text()
