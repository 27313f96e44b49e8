"""Debian's Chromium under Playwright, and what a test must not find in it: errors of console, requests and scripts."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Collection
from typing import Any

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Response,
    async_playwright,
    expect,
)

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
# A request that the next page ends, such as that for live events.
ENDED = "net::ERR_ABORTED"
GENEROUS_MILLISECONDS = 20_000
expect.set_options(timeout=GENEROUS_MILLISECONDS)


def chromium_path() -> str | None:
    """Return where Chromium is, if it is installed."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextlib.asynccontextmanager
async def launched(path: str) -> AsyncIterator[Browser]:
    """Start one browser, without a window."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            await browser.close()


async def follow(target: Locator) -> None:
    """Click what leads to another page, and wait until its styles and its script are there."""
    await target.click()
    await target.page.wait_for_load_state()


class Visitor:
    """
    One person at one browser, who starts with no cookies.

    `faults` are the messages of the console that are errors or warnings, exceptions of scripts, requests that failed, and
    answers of 400 and more, but those that the test expects.
    """

    def __init__(self, context: BrowserContext, address: str, expected: Collection[int]) -> None:
        self.address = address
        self.context = context
        self.expected = expected
        self.faults: list[str] = []
        context.on("console", self._on_console)
        context.on("requestfailed", self._on_failed)
        context.on("response", self._on_response)
        context.on("weberror", lambda error: self.faults.append(f"uncaught: {error.error}"))
        context.set_default_timeout(GENEROUS_MILLISECONDS)

    async def open(self, path: str) -> Page:
        """Open a page in a new tab."""
        page = await self.context.new_page()
        await page.goto(path)
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        is_known = any(f"status of {status} " in message.text for status in self.expected)
        if message.type in {"error", "warning"} and not is_known:
            self.faults.append(f"console: {message.text} at {message.location.get('url')}")

    def _on_failed(self, request: Request) -> None:
        if request.failure != ENDED:
            self.faults.append(f"request: {request.method} {request.url}: {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.faults.append(f"response: {response.status} of {response.url}")


@contextlib.asynccontextmanager
async def visitor(
    browser: Browser, address: str, *, expected: Collection[int] = (), **options: Any
) -> AsyncIterator[Visitor]:
    """
    Return a visitor of the page at `address`, and fail at the end if there were faults.

    Answers with a status of `expected` are none. `options` go to Playwright.
    """
    context = await browser.new_context(base_url=address, **{"viewport": DESKTOP, **options})
    try:
        visitor = Visitor(context, address, expected)
        yield visitor
        assert not visitor.faults, "\n".join(visitor.faults)
    finally:
        await context.close()
