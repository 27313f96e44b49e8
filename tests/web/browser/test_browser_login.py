"""Log in and out in a browser."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page
from visitors import PASSWORD, USERS

from factory import insert_job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web import Dashboard, WebConfig, dashboard


@pytest.fixture
def closed_page(postgres_url: str, schema_driver: AsyncpgDriver) -> Dashboard:
    """A page whose users log in."""
    return dashboard(postgres_url, WebConfig(schema=schema_driver.schema, users=USERS))


async def log_in(page: Page, password: str) -> None:
    await page.get_by_label("Name").fill("ada")
    await page.get_by_label("Password or token").fill(password)
    await page.get_by_role("button", name="Log in").click()


@pytest.mark.parametrize("has_javascript", [True, False])
async def test_user_logs_in_and_out(visit: Any, closed_page: Dashboard, *, has_javascript: bool) -> None:
    """A wrong password leads back to the login page, the right one to the page that was asked for."""
    visitor = await visit(closed_page, java_script_enabled=has_javascript, expected={401})
    page = await visitor.open("/queues?after=a")
    await log_in(page, "wrong")
    refusal = await page.get_by_role("alert").text_content()
    await log_in(page, PASSWORD)
    await page.get_by_role("heading", name="Queues").wait_for()
    path = page.url.removeprefix(visitor.address)
    await page.get_by_role("button", name="Log out").click()
    await page.wait_for_url("**/login*")
    await page.goto("/queues")

    assert (refusal or "").strip() == "This name and password do not match."
    assert path == "/queues?after=a"
    assert "/login" in page.url


async def test_back_button_shows_no_page_after_the_end_of_a_session(
    visit: Any, closed_page: Dashboard
) -> None:
    """The browser keeps no page: after a logout the back button leads to the login page."""
    visitor = await visit(closed_page)
    page = await visitor.open("/queues")
    await log_in(page, PASSWORD)
    await page.get_by_role("heading", name="Queues").wait_for()
    await page.get_by_role("button", name="Log out").click()
    await page.wait_for_url("**/login*")
    await page.go_back()

    assert "/login" in page.url


async def test_live_update_after_the_end_of_a_session_leads_to_the_login(
    visit: Any, closed_page: Dashboard, schema_driver: AsyncpgDriver
) -> None:
    """A page that is open when its session ends does not keep old numbers: it leads to the login, and then back."""
    visitor = await visit(closed_page)
    page = await visitor.open("/jobs")
    async with page.expect_response("**/live*"):  # the server knows the session until then
        await log_in(page, PASSWORD)
    await page.get_by_role("heading", name="Jobs").wait_for()
    await visitor.context.clear_cookies()
    await insert_job(schema_driver.pool)
    await page.wait_for_url("**/login*")
    await log_in(page, PASSWORD)
    await page.get_by_role("heading", name="Jobs").wait_for()

    assert page.url.removeprefix(visitor.address) == "/jobs"


async def test_polling_page_leads_to_the_login_after_the_end_of_a_session(
    visit: Any, closed_page: Dashboard
) -> None:
    """A page that asks every five seconds finds the end of its session without a change, and leads to the login."""
    visitor = await visit(closed_page, expected={401, 502})
    await visitor.context.route("**/live?*", lambda route: route.fulfill(status=502))
    page = await visitor.open("/queues")
    # The first answer is an update of the whole page; without a change there is no other.
    async with page.expect_response(lambda answer: "millhand-look" in answer.request.headers):
        await log_in(page, PASSWORD)
    await visitor.context.clear_cookies()
    await page.wait_for_url("**/login*")
    await log_in(page, PASSWORD)
    await page.get_by_role("heading", name="Queues").wait_for()

    assert page.url.removeprefix(visitor.address) == "/queues"
