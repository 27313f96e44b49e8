"""The pages are accessible: axe-core finds no violation of WCAG 2.2 AA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from page_browser import DESKTOP, PHONE, Visitor
from page_views import PATHS, SEVERAL_PATHS, statuses
from playwright.async_api import Page

from required import missing

AXE = Path(__file__).parents[3] / ".axe" / "node_modules" / "axe-core" / "axe.min.js"
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
# The size of targets is a rule of 2.2 that axe does not apply by itself.
OPTIONS = {"runOnly": {"type": "tag", "values": LEVELS}, "rules": {"target-size": {"enabled": True}}}


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core."""
    if not AXE.exists():
        missing("axe", "axe-core is not installed; run ./just axe")
    return AXE.read_text()


async def violations(page: Page, axe: str) -> list[str]:
    """Return what axe finds on a page as it is shown now."""
    await page.evaluate(axe)
    found = await page.evaluate(f"axe.run(document, {json.dumps(OPTIONS)})")
    assert found["passes"], "axe must have looked at something"
    return [
        f"{rule['id']}: {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("name", PATHS)
async def test_page_is_accessible(visit: Any, axe: str, name: str) -> None:
    """At 1280 and 390 px, light and dark, axe finds no violation of WCAG 2.2 AA on any page."""
    await check(await visit(expected=statuses(name)), PATHS[name], axe)


@pytest.mark.parametrize("name", SEVERAL_PATHS)
async def test_page_of_several_databases_is_accessible(
    visit: Any, axe: str, several_shops: str, name: str
) -> None:
    """The same holds for the list of databases, and for a name in its color."""
    await check(await visit(several_shops, expected=statuses(name)), SEVERAL_PATHS[name], axe)


async def check(visitor: Visitor, path: str, axe: str) -> None:
    page = await visitor.open(path)
    found = {}
    for size in (DESKTOP, PHONE):
        await page.set_viewport_size(size)
        for theme in ("light", "dark"):
            await page.emulate_media(color_scheme=theme)
            found[f"{size['width']} {theme}"] = await violations(page, axe)

    assert {case: faults for case, faults in found.items() if faults} == {}


async def test_menu_of_a_phone_is_accessible(visit: Any, axe: str) -> None:
    """With the menu open, axe finds no violation in either theme."""
    page = await (await visit(viewport=PHONE)).open("/")
    await page.get_by_role("button", name="Menu").click()
    found = []
    for theme in ("light", "dark"):
        await page.emulate_media(color_scheme=theme)
        found += await violations(page, axe)

    assert found == []


async def test_axe_finds_a_fault_that_a_page_has(visit: Any, axe: str) -> None:
    """A text that is hardly lighter than its ground, and a button without a name, are found."""
    visitor = await visit()
    page = await visitor.open("/queues")
    await page.evaluate(
        "document.querySelector('main').innerHTML = '<h1>Fault</h1><button></button>'"
        " + '<p id=pale>pale</p>'; document.querySelector('#pale').style.color = '#bbb'"
    )
    found = await violations(page, axe)

    assert [fault.partition(":")[0] for fault in found] == ["button-name", "color-contrast"]
