"""Every page in a real browser: without JavaScript, by keyboard, on a phone, in both themes."""

from __future__ import annotations

from typing import Any

import pytest
from page_browser import PHONE
from page_views import PATHS, statuses
from playwright.async_api import expect

from millhand.web.routes import TABS

Visit = Any
VIEW = pytest.mark.parametrize("name", PATHS)


@VIEW
async def test_page_is_read_without_javascript(visit: Visit, name: str) -> None:
    """Without JavaScript each page has one heading, and its navigation leads to every tab."""
    visitor = await visit(expected=statuses(name), java_script_enabled=False)
    page = await visitor.open(PATHS[name])

    assert await page.locator("h1").count() == 1
    for _, label, path in TABS:
        link = page.get_by_role("navigation", name="Pages").get_by_role("link", name=label)
        assert (await link.get_attribute("href")) == path


COVERING_CELLS = """
[...document.querySelectorAll("td")]
    .filter((cell) => cell.scrollWidth > cell.clientWidth + 1 && getComputedStyle(cell).overflowX === "visible")
    .map((cell) => cell.textContent)
"""


@VIEW
@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_page_fits_a_phone(visit: Visit, name: str, theme: str) -> None:
    """At 390 px nothing makes the page wider than the screen, so that it scrolls only down; no cell covers the next one."""
    visitor = await visit(
        expected=statuses(name), viewport=PHONE, color_scheme=theme, has_touch=True, is_mobile=True
    )
    page = await visitor.open(PATHS[name])

    widths = await page.evaluate(
        "[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    )
    assert max(widths) == PHONE["width"]
    assert await page.evaluate(COVERING_CELLS) == []


async def test_menu_of_a_phone_reaches_every_page_without_javascript(visit: Visit) -> None:
    """On a phone the menu opens by a tap, shows all pages and the time zone within the screen, and leads to the last one."""
    visitor = await visit(viewport=PHONE, java_script_enabled=False, has_touch=True, is_mobile=True)
    page = await visitor.open("/")
    pages = page.get_by_role("navigation", name="Pages")
    assert not await pages.is_visible()
    await page.get_by_role("button", name="Menu").tap()
    await expect(pages).to_be_visible()

    boxes = [await pages.get_by_role("link", name=label).bounding_box() for _, label, _ in TABS]
    assert await page.get_by_text("Times in UTC").is_visible()
    await pages.get_by_role("link", name=TABS[-1][1]).tap()
    await page.wait_for_url(f"**{TABS[-1][2]}")

    for box in boxes:
        assert box
        assert box["height"] >= 44
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= PHONE["height"]
