"""Every page in a real browser: without JavaScript, by keyboard, on a phone, in both themes."""

from __future__ import annotations

from typing import Any

import pytest
from page_browser import PHONE
from page_views import PATHS, statuses

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


@VIEW
@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_page_fits_a_phone(visit: Visit, name: str, theme: str) -> None:
    """At 390 px nothing makes the page wider than the screen, so that it scrolls only down."""
    visitor = await visit(
        expected=statuses(name), viewport=PHONE, color_scheme=theme, has_touch=True, is_mobile=True
    )
    page = await visitor.open(PATHS[name])

    widths = await page.evaluate(
        "[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    )
    assert max(widths) == PHONE["width"]
