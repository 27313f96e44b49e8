"""Several databases in a real browser: the list, the switch, and a change in the database that the page shows."""

from __future__ import annotations

from typing import Any

import pytest
from page_browser import PHONE, follow
from page_server import shops_page
from page_views import SEVERAL_PATHS, statuses
from playwright.async_api import expect

from factory import get_job, insert_job
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver


@pytest.mark.parametrize(
    "options",
    [{}, {"java_script_enabled": False}, {"viewport": PHONE}],
    ids=["desktop", "no_script", "phone"],
)
async def test_user_switches_and_changes_a_job_of_the_database_on_the_page(
    visit: Any,
    postgres_url: str,
    schema_driver: AsyncpgDriver,
    staging_driver: AsyncpgDriver,
    options: dict[str, Any],
) -> None:
    """From the list to production, by the switch to the same page of staging, and there a job is cancelled: there only."""
    there = await insert_job(staging_driver.pool, JobState.AVAILABLE)
    here = await insert_job(schema_driver.pool, JobState.AVAILABLE, id=there.id)
    visitor = await visit(shops_page(postgres_url, schema_driver.schema, staging_driver.schema), **options)
    page = await visitor.open("/")
    await expect(page.get_by_role("row", name="away")).to_contain_text("no answer")
    await follow(page.get_by_role("row", name="production").get_by_role("link"))
    await follow(page.get_by_role("link", name="Queues", exact=True))
    switch = page.locator("#where")
    await expect(switch.locator("summary")).to_contain_text("production")

    await switch.locator("summary").click()
    await switch.get_by_role("link", name="staging").click()
    await expect(page).to_have_url(f"{visitor.address}/db/staging/queues")
    await page.goto(f"/db/staging/jobs/{there.id}")
    await page.get_by_role("button", name="Cancel").click()
    if options.get("java_script_enabled", True):
        dialog = page.get_by_role("dialog", name="Cancel this job?")
        await expect(dialog).to_contain_text("in staging")
        await dialog.get_by_role("button", name="Cancel").click()

    await expect(page.locator(".notice")).to_have_text(f"Cancelled job {there.id} in staging.")
    assert (await get_job(staging_driver.pool, there.id)).state is JobState.CANCELLED
    assert await get_job(schema_driver.pool, here.id) == here


async def test_list_shows_a_change_by_itself(
    visit: Any, postgres_url: str, schema_driver: AsyncpgDriver, staging_driver: AsyncpgDriver
) -> None:
    """An open list of databases shows a new job without being loaded again."""
    visitor = await visit(shops_page(postgres_url, schema_driver.schema, staging_driver.schema))
    page = await visitor.open("/")
    row = page.get_by_role("row", name="staging")
    await expect(row).to_contain_text("Nothing is wrong")
    await insert_job(staging_driver.pool, queue="mail")

    await expect(row).to_contain_text("mail")


@pytest.mark.parametrize("name", SEVERAL_PATHS)
async def test_page_of_several_databases_fits_a_phone(visit: Any, several_shops: str, name: str) -> None:
    """At 390 px the list and the switch make no page wider than the screen."""
    visitor = await visit(
        several_shops, expected=statuses(name), viewport=PHONE, is_mobile=True, has_touch=True
    )
    page = await visitor.open(SEVERAL_PATHS[name])
    if name != "databases":
        await page.locator("#where summary").tap()
        await expect(page.locator("#where").get_by_role("link", name="All databases")).to_be_visible()

    widths = await page.evaluate(
        "[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    )
    assert max(widths) == PHONE["width"]
