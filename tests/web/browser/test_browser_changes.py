"""What a person changes on the pages of periodic jobs, schedules, flows and orphans, and what they take away as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from page_browser import PHONE, follow
from playwright.async_api import expect
from shop_rows import fill_shop

from dead_jobs import dead_ids
from factory import get_job
from millhand.core.job import JobId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web import Dashboard

EVERYWHERE = pytest.mark.parametrize(
    "options", [{}, {"java_script_enabled": False}, {"viewport": PHONE, "is_mobile": True, "has_touch": True}],
    ids=["with JavaScript", "without JavaScript", "on a phone"],
)  # fmt: skip


async def confirm(page: Any, options: dict[str, Any], *texts: str) -> None:
    """Read the question, where there is one, and answer yes."""
    if options.get("java_script_enabled", True):
        dialog = page.locator("#confirm")
        for text in texts:
            await expect(dialog).to_contain_text(text)
        await dialog.locator("[data-yes]").click()


@EVERYWHERE
async def test_person_runs_a_periodic_job_now(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver, options: dict[str, Any]
) -> None:
    """The dialog says what is inserted; the person comes to the new run, and the button is gone while it waits."""
    await fill_shop(schema_driver.pool)
    page = await (await visit(own_shop, **options)).open("/periodic")

    await page.locator("#periodic").get_by_role("button", name="Run now").click()
    await confirm(page, options, "Run prices now?", "into queue default: kind refresh_prices, args {}")
    await expect(page.get_by_text("Inserted job")).to_be_visible()
    id = int(page.url.rpartition("/")[2])
    await page.goto("/periodic")

    job = await get_job(schema_driver.pool, id)
    assert (job.kind, job.state) == ("refresh_prices", JobState.AVAILABLE)
    await expect(page.locator("#periodic").get_by_role("button", name="Run now")).to_have_count(0)


@EVERYWHERE
async def test_person_pauses_changes_and_runs_a_schedule(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver, options: dict[str, Any]
) -> None:
    """From the list to one schedule and its form, to the job of a run, which the list then shows as the last one."""
    await fill_shop(schema_driver.pool)
    page = await (await visit(own_shop, **options)).open("/periodic")

    await page.get_by_role("link", name="report.acme").click()
    await page.locator("#schedule").get_by_role("button", name="Pause").click()
    await expect(page.get_by_text("Paused schedule report.acme.")).to_be_visible()
    await page.get_by_text("Change", exact=True).click()
    await page.get_by_label("Or a run every").fill("")
    await page.get_by_label("Cron", exact=True).fill("30 4 * * *")
    await page.get_by_role("button", name="Set the schedule").click()
    await expect(page.get_by_text("Set schedule report.acme.")).to_be_visible()
    await expect(page.locator("#schedule")).to_contain_text("30 4 * * * UTC")
    await follow(page.get_by_role("button", name="Resume"))
    await page.locator("#schedule").get_by_role("button", name="Run now").click()
    await confirm(page, options, "Run report.acme now?", "a job of kind build_report into queue reports")
    await expect(page.get_by_text("Inserted job")).to_be_visible()
    id = int(page.url.rpartition("/")[2])
    await page.goto("/periodic")

    assert (await get_job(schema_driver.pool, id)).metadata["river:periodic_job_id"] == "report.acme"
    await expect(page.locator("#schedules")).to_contain_text(str(id))


@EVERYWHERE
async def test_person_adds_and_removes_a_schedule(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver, options: dict[str, Any]
) -> None:
    """The form of the list makes a schedule, whose page follows; once removed, it is in no list."""
    await fill_shop(schema_driver.pool)
    page = await (await visit(own_shop, **options)).open("/periodic")

    await page.get_by_text("Add a schedule").click()
    await page.get_by_label("Id", exact=True).fill("digest.lin")
    await page.get_by_label("Kind").fill("send_email")
    await page.get_by_label("Args, a JSON object").fill('{"to": "lin@shop.example"}')
    await page.get_by_label("Cron", exact=True).fill("0 8 * * 1")
    await page.get_by_label("Zone of cron").fill("Europe/Berlin")
    await follow(page.get_by_role("button", name="Set the schedule"))
    await expect(page.get_by_text("Set schedule digest.lin.")).to_be_visible()
    await expect(page.locator("#schedule")).to_contain_text('{"to":"lin@shop.example"}')
    await page.get_by_role("button", name="Remove the schedule").click()
    await confirm(page, options, "Remove schedule digest.lin?", "Its jobs stay.")
    await expect(page.get_by_text("Removed schedule digest.lin.")).to_be_visible()

    await expect(page.get_by_role("link", name="digest.lin")).to_have_count(0)


@EVERYWHERE
async def test_person_retries_and_cancels_a_flow(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver, options: dict[str, Any]
) -> None:
    """From the list to a flow that failed, to the job of its graph and back; it runs again, and then is cancelled."""
    await fill_shop(schema_driver.pool)
    page = await (await visit(own_shop, **options)).open("/flows?state=failed")

    await page.get_by_role("link", name="import feed 8").click()
    await expect(page.locator("#state")).to_contain_text("17 of 17 tasks ended, 3 failed")
    await page.locator("#state").get_by_role("link", name="sum_up: failed").click()
    await page.get_by_role("link", name="import feed 8").click()
    await page.locator("#retry summary").click()
    await follow(page.get_by_role("button", name="Failed tasks, and all after them"))
    await expect(page.get_by_text("Retried flow 2")).to_be_visible()
    await expect(page.locator("#state")).to_contain_text("running")
    await page.get_by_role("button", name="Cancel").click()
    await confirm(page, options, "Cancel this flow?", "5 tasks have not ended.")
    await expect(page.get_by_text("Cancelled flow 2")).to_be_visible()

    await expect(page.locator("#state")).to_contain_text("cancelled")


@EVERYWHERE
async def test_person_filters_retries_and_deletes_dead_letters(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver, options: dict[str, Any]
) -> None:
    """From a discarded job to its dead letter and to the list; one is retried, and the selected ones are deleted."""
    pool = schema_driver.pool
    await fill_shop(pool)
    before = len(await dead_ids(pool))
    page = await (await visit(own_shop, **options)).open("/jobs/3")

    await page.get_by_role("link", name="kept").click()
    await expect(page.locator("#attempts")).to_contain_text("connection refused")
    await page.locator("#head").get_by_role("link", name="Dead letters").click()
    await page.get_by_label("Text in the last error").fill("CONNECTION REFUSED")
    await page.get_by_label("Discarded since").fill("2h")
    await follow(page.get_by_role("button", name="Filter"))
    rows = page.locator("[data-rows] tbody tr")
    await expect(rows.first).to_contain_text("connection refused")
    chosen = [int((await row.get_attribute("id") or "").removeprefix("job-")) for row in await rows.all()]
    await page.get_by_role("link", name="index_product 3", exact=True).click()
    await page.get_by_role("button", name="Retry now").click()
    await expect(page.get_by_text("Retried dead letter 3.")).to_be_visible()
    await page.goto("/dead?kind=send_email")
    for box in (await page.get_by_label("Select job").all())[:2]:
        await box.check()
    await page.get_by_role("button", name="Delete").click()
    await confirm(page, options, "Delete 2 jobs?", "where they are still discarded")
    await expect(page.get_by_text("Deleted 2 dead letters.")).to_be_visible()

    assert 3 in chosen
    assert (await get_job(pool, JobId(3))).state is JobState.AVAILABLE
    assert len(await dead_ids(pool)) == before - 3


@EVERYWHERE
async def test_person_restores_a_removed_object(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver, options: dict[str, Any]
) -> None:
    """From the quarantine to the key's page: the dialog says what a worker does, and the page lists the restore."""
    await fill_shop(schema_driver.pool)
    page = await (await visit(own_shop, **options)).open("/orphans")

    await follow(page.get_by_role("link", name="invoices/4711.pdf").first)
    await page.get_by_role("button", name="Restore", exact=True).click()
    await confirm(page, options, "Restore invoices/4711.pdf?", "Inserts a job orphan_restore into queue")
    await expect(page.get_by_text("Inserted a restore: job")).to_be_visible()
    await page.goto("/orphans?key=invoices%2F4711.pdf")

    await expect(page.locator("#restores")).to_contain_text("key invoices/4711.pdf")
    await expect(page.locator("#restores")).to_contain_text("available")


@EVERYWHERE
async def test_person_holds_and_releases_a_partition(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver, options: dict[str, Any]
) -> None:
    """From the list of queues to a tenant: the person holds it, sees why its job waits, and releases it."""
    await fill_shop(schema_driver.pool)
    page = await (await visit(own_shop, **options)).open("/limits")

    await page.get_by_role("link", name="reports").click()
    await page.get_by_role("link", name="globex").click()
    partition = page.locator("#partition")
    await expect(partition).to_contain_text("2 running, 3 waiting")
    await partition.get_by_role("button", name="10 min").click()
    await expect(page.get_by_text("Held partition of queue reports.")).to_be_visible()
    await expect(partition).to_contain_text("Held until")
    await page.goto("/jobs/13")
    await expect(page.locator("#state")).to_contain_text("Partition globex of queue reports is held until")
    await page.go_back()
    await partition.get_by_role("button", name="Release").click()
    await expect(page.get_by_text("Released partition of queue reports.")).to_be_visible()

    await expect(partition.get_by_role("button", name="Release")).to_have_count(0)


async def test_person_takes_a_list_away_as_a_file(
    visit: Any, own_shop: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """The menu of a list saves what the search finds as a file."""
    await fill_shop(schema_driver.pool)
    page = await (await visit(own_shop, accept_downloads=True)).open(
        "/jobs?q=kind:index_product state:discarded"
    )

    await page.get_by_text("All that match").click()
    async with page.expect_download() as waited:
        await page.get_by_role("link", name="Export as NDJSON").click()
    download = await waited.value

    lines = [json.loads(one) for one in Path(await download.path()).read_text().splitlines()]
    assert download.suggested_filename == "jobs.ndjson"
    assert {(one["kind"], one["state"]) for one in lines} == {("index_product", "discarded")}
