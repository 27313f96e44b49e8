"""The story of `./just demo --web`, as a person on call sees it in a browser."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

import pytest
from page_browser import GENEROUS_MILLISECONDS, visitor
from playwright.async_api import Browser, Page, expect

from demo_process import Demo, running_demo

SECONDS = 60.0


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    async with running_demo() as demo:
        yield demo


async def test_person_on_call_answers_within_a_minute_from_the_page_alone(
    chromium: Browser, demo: Demo
) -> None:
    """
    What fails, since when, and how many jobs wait, is on the first page; its links lead to a retry of all, seen to succeed.

    The provider comes back while the person looks. All of it takes less than a minute.
    """
    await demo.until("jobs?q=state:discarded", lambda page: len(page["jobs"]) > 3)
    await demo.until("queues/default", lambda page: page["queue"]["num_retryable"] > 3)
    began = time.monotonic()
    async with visitor(chromium, demo.url) as person:
        page = await person.open(demo.url)
        verdict = await page.locator("#verdict").inner_text()
        error = await row_of(page, "ProviderUnavailable")
        await demo.end_outage()
        await page.get_by_role("link", name="Its jobs").click()
        search = page.url
        await page.get_by_text("All that match").click()
        await page.get_by_role("button", name="Retry …").click()
        await page.get_by_role("button", name=re.compile(r"Retry \d+ jobs")).click()
        await expect(page.locator("#bulk .tag")).to_have_text("completed")
        retried = await page.locator("#bulk header p").inner_text()
        await page.goto(search)
        states = page.get_by_role("navigation", name="State")
        for state in ("retryable", "discarded"):
            await expect(states.get_by_role("link", name=state)).to_have_text(f"{state} 0")
        completed = states.get_by_role("link", name="completed")
        async with asyncio.timeout(GENEROUS_MILLISECONDS / 1000):
            while number_in(await completed.inner_text()) < number_in(retried):
                pass
    seconds = time.monotonic() - began

    assert re.search(r"charge_card failed in \d+ attempts of \d+ in 10 min", verdict)
    assert int(error["Wait for a retry"]) > 3
    assert re.fullmatch(r"\d (s|min) ago", error["First"])
    assert number_in(retried) > 3
    assert seconds < SECONDS


async def row_of(page: Page, text: str) -> dict[str, str]:
    """Return the cells of the table row that has a text, by the names of their columns."""
    row = page.get_by_role("row").filter(has_text=text)
    names = await page.locator("table").filter(has=row).locator("thead th").all_inner_texts()
    return dict(zip(names, await row.get_by_role("cell").all_inner_texts(), strict=True))


def number_in(text: str) -> int:
    [number, *_] = re.findall(r"\d+", text)
    return int(number)
