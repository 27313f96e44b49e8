"""The tests in a browser notice what a reader would not: messages of the console, failed requests, uncaught errors."""

from __future__ import annotations

import asyncio

import pytest
from page_browser import GENEROUS_MILLISECONDS, visitor
from playwright.async_api import Browser


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("console.error('an error')", "console: an error"),
        ("setTimeout(() => { throw new Error('uncaught') })", "uncaught: uncaught"),
        ("fetch('/no-such-page')", "response: 404 of "),
        ("fetch('http://127.0.0.1:9/')", "Content Security Policy"),
        ("document.body.setAttribute('style', 'color: red')", "Content Security Policy"),
        (
            "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(1)>')",
            "Content Security Policy",
        ),
    ],
)
async def test_visit_with_a_fault_fails(chromium: Browser, shop: str, script: str, fault: str) -> None:
    """A visit in which something went wrong unseen fails in the end, and the message has what it was."""
    with pytest.raises(AssertionError, match=fault):
        await visit_with(chromium, shop, script)


async def visit_with(chromium: Browser, shop: str, script: str) -> None:
    """Run a script on a page, and leave when there is a fault."""
    async with visitor(chromium, shop) as one, asyncio.timeout(GENEROUS_MILLISECONDS / 1000):
        page = await one.open("/queues")
        await page.evaluate(f"() => {{ {script} }}")
        while not one.faults:
            await page.evaluate("0")
