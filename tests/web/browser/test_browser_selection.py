"""Select jobs of the list, by mouse and by keys, and change them."""

from __future__ import annotations

from typing import Any

from playwright.async_api import expect

from factory import get_job, insert_job
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web import Dashboard


async def test_selection_survives_a_live_update(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """Selected rows stay selected while others appear, and one that no longer matches stays until it is let go."""
    first, second = [await insert_job(schema_driver.pool, JobState.DISCARDED) for _ in range(2)]
    page = await (await visit(own_shop)).open("/jobs?q=state:discarded")
    bar = page.locator("[data-selection]")
    await expect(bar).to_be_hidden()
    await page.get_by_label(f"Select job {first.id}").check()
    await expect(bar).to_contain_text("1 selected")
    await schema_driver.pool.execute_script(
        "UPDATE /* schema */river_job SET state = 'available', finalized_at = NULL"
    )
    await expect(page.locator(f"#job-{second.id}")).to_be_hidden()

    await expect(page.get_by_label(f"Select job {first.id}")).to_be_checked()
    await expect(bar).to_contain_text("1 selected")


async def test_jobs_are_selected_and_cancelled_by_keys(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """J moves, x selects, c cancels after a question: the two newest jobs are cancelled, the third is not."""
    jobs = [await insert_job(schema_driver.pool) for _ in range(3)]
    page = await (await visit(own_shop)).open("/jobs")
    for key in ("j", "x", "j", "x", "c"):
        await page.keyboard.press(key)
    dialog = page.get_by_role("dialog", name="Cancel 2 jobs?")
    await expect(dialog).to_be_visible()
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("Cancelled 2 jobs.")).to_be_visible()

    states = [(await get_job(schema_driver.pool, job.id)).state for job in jobs]
    assert states == [JobState.AVAILABLE, JobState.CANCELLED, JobState.CANCELLED]


async def test_suggestions_of_the_search_line_are_taken_by_keys(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """After a part of a field, the arrow and Enter put it in, and then its values; a second Enter searches."""
    await insert_job(schema_driver.pool, kind="send_email")
    page = await (await visit(own_shop)).open("/jobs")
    line, options = (
        page.get_by_role("combobox", name="Search jobs"),
        page.get_by_role("listbox", name="Suggestions"),
    )
    await line.press_sequentially("kin")
    await options.get_by_role("option", name="kind:").first.wait_for()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(line).to_have_value("kind:")
    await options.get_by_role("option", name="send_email").wait_for()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(line).to_have_value("kind:send_email ")
    await expect(options).to_be_hidden()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/jobs?q=kind%3Asend_email*")

    await expect(page.get_by_role("link", name="Remove kind:send_email")).to_be_visible()


async def test_selected_jobs_are_changed_without_javascript(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """Without JavaScript the bar is always there, and its buttons are those of a form."""
    job = await insert_job(schema_driver.pool, JobState.DISCARDED)
    page = await (await visit(own_shop, java_script_enabled=False)).open("/jobs")
    await page.get_by_label(f"Select job {job.id}").check()
    await page.get_by_role("button", name="Retry", exact=False).first.click()

    await expect(page.get_by_role("status").first).to_have_text("Retried 1 job.")
