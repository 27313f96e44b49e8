"""The page by keyboard alone, and the theme."""

from __future__ import annotations

from typing import Any

import pytest
from page_views import PATHS, statuses
from playwright.async_api import Page

# Elements that Tab must reach, in their order; kept as they are, because a live update changes their attributes.
FOCUSABLE = """
() => (window.stops = [
    ...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")
].filter(
    (element) => element.checkVisibility({visibilityProperty: true}) && !element.disabled && element.tabIndex >= 0
        && element.type !== "hidden" && !element.closest("details:not([open]) > :not(summary)"),
)).map((element) => element.outerHTML.slice(0, 120))
"""
FOCUSED = """
() => {
    const element = document.activeElement, style = getComputedStyle(element), box = element.getBoundingClientRect();
    const shown = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== "none";
    const inside = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
    return {number: stops.indexOf(element), html: element.outerHTML.slice(0, 120), shown, inside};
}
"""


async def tabbed(page: Page, limit: int) -> list[dict[str, Any]]:
    """Press Tab until the focus leaves the page or comes back, and return what had it."""
    found: list[dict[str, Any]] = []
    while len(found) <= limit:
        await page.keyboard.press("Tab")
        focused = await page.evaluate(FOCUSED)
        if focused["number"] < 0 or (found and focused["number"] == found[0]["number"]):
            break
        found.append(focused)
    return found


@pytest.mark.parametrize("name", PATHS)
async def test_tab_reaches_everything(visit: Any, name: str) -> None:
    """Tab reaches each link, button and field of a page once and in its order; what has the focus is seen to have it."""
    visitor = await visit(expected=statuses(name))
    page = await visitor.open(PATHS[name])
    expected = await page.evaluate(FOCUSABLE)
    found = await tabbed(page, len(expected))

    assert [one["html"] for one in found] == expected
    assert [one["html"] for one in found if not one["shown"]] == []
    assert [one["html"] for one in found if not one["inside"]] == []


async def test_first_tab_skips_the_navigation(visit: Any) -> None:
    """The first stop of Tab leads past the navigation, and the next one is in the content."""
    page = await (await visit()).open("/queues")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")

    assert await page.evaluate("document.querySelector('main').contains(document.activeElement)")


async def test_theme_is_kept(visit: Any) -> None:
    """The button of the theme overrides that of the system, on the next page too, and is drawn so from the first paint."""
    visitor = await visit(color_scheme="dark")
    page = await visitor.open("/queues")
    button = page.get_by_role("button", name="Theme")
    dark = await ground(page)
    await button.click()
    light = await ground(page)
    await page.goto("/fleet")

    assert await ground(page) == light
    assert light != dark
    await button.click()
    await button.click()
    assert await ground(page) == dark


async def ground(page: Page) -> str:
    """Return the colour behind the page."""
    colour: str = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    return colour
