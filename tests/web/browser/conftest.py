"""One Chromium a run, and the page on a schema that is filled once and read only, or on one of the test's own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from page_browser import Visitor, chromium_path, launched, visitor
from page_server import serving, shop_page
from playwright.async_api import Browser
from shop_rows import fill_shop

from lent_schema import new_schema_driver
from millhand.driver.asyncpg import AsyncpgDriver
from required import missing

Visit = Callable[..., Awaitable[Visitor]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slow")


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The run's browser."""
    path = chromium_path()
    if path is None:
        missing("chromium", "there is no `chromium` on the PATH")
    async with launched(path) as browser:
        yield browser


@pytest.fixture(scope="session")
async def shop(postgres_url: str) -> AsyncIterator[str]:
    """The address of the page of the shop, whose rows no test changes."""
    driver = await new_schema_driver(postgres_url)
    await fill_shop(driver.pool)
    with serving(shop_page(postgres_url, driver.schema)) as address:
        yield address
    await driver.pool.fetch(f"DROP SCHEMA {driver.schema} CASCADE")
    await driver.close()


@pytest.fixture
def own_shop(postgres_url: str, schema_driver: AsyncpgDriver) -> Iterator[str]:
    """The address of a page whose rows are the test's own."""
    with serving(shop_page(postgres_url, schema_driver.schema)) as address:
        yield address


@pytest.fixture
async def visit(chromium: Browser, shop: str) -> AsyncIterator[Visit]:
    """Start a visit of the shop's page; faults that it found fail the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(address: str = shop, **options: object) -> Visitor:
            return await stack.enter_async_context(visitor(chromium, address, **options))

        yield start
