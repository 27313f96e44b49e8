"""The buttons of an open page are those of the state that it shows."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page, expect
from shop_rows import fill_shop

from factory import insert_job
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web import Dashboard

PAUSE = "UPDATE /* schema */river_queue SET paused_at = now() WHERE name = 'mail'"
DISCARD = (
    "UPDATE /* schema */river_job SET state = 'discarded', finalized_at = now() WHERE state = 'available'"
)


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


async def test_person_retries_all_that_match_without_a_reload(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """From the search to the end: heading and button follow the collected jobs, and no button is left at the end."""
    for _ in range(6):
        await insert_job(
            schema_driver.pool, kind="send_mail", state=JobState.DISCARDED, attempt=1, max_attempts=1
        )
    page = await (await visit(own_shop)).open("/jobs?q=kind:send_mail state:discarded")
    await page.get_by_text("All that match").click()
    await page.get_by_role("button", name="Retry …").click()

    await button(page, "Retry 6 jobs").click()
    await expect(page.locator("#bulk")).to_contain_text("6 changed")

    await expect(page.get_by_role("heading", name="Retry 6 jobs")).to_be_visible()
    await expect(page.locator("#changes button")).to_have_count(0)


@pytest.mark.parametrize(
    ("path", "before", "change", "after"),
    [("/queues/mail", "Pause", PAUSE, "Resume"), ("/jobs/{id}", "Cancel", DISCARD, "Retry now")],
    ids=["a queue", "a job"],
)
async def test_buttons_follow_the_state(
    visit: Any,
    own_shop: Dashboard,
    schema_driver: AsyncpgDriver,
    path: str,
    before: str,
    change: str,
    after: str,
) -> None:
    """Somebody else's change replaces the buttons; who had the old one in focus keeps a place on the page."""
    await fill_shop(schema_driver.pool)
    job = await insert_job(schema_driver.pool, queue="mail")
    page = await (await visit(own_shop)).open(path.format(id=job.id))
    await button(page, before).focus()
    await schema_driver.pool.execute_script(change)

    await expect(button(page, after)).to_be_visible()

    await expect(button(page, before)).to_have_count(0)
    assert await page.evaluate("document.activeElement.id") == "content"
