"""One Chromium a run, and the page on a schema that is filled once and read only, or on one of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from page_browser import Visitor, chromium_path, launched, visitor
from page_server import serving, shop_page, shops_page
from playwright.async_api import Browser
from shop_rows import count_history, fill_shop

from lent_schema import GENEROUS_SECONDS, new_schema_driver
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web import Dashboard, live
from required import missing

Visit = Callable[..., Awaitable[Visitor]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live updates rest no longer than after a quick look: on a busy machine, the database seems to work for long."""
    monkeypatch.setattr(live, "PAUSE_SECONDS_MAX", live.INTERVAL_SECONDS)


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The run's browser."""
    path = chromium_path()
    if path is None:
        missing("chromium", "there is no `chromium` on the PATH")
    async with launched(path) as browser:
        yield browser


@pytest.fixture(scope="session")
async def shop_schema(postgres_url: str) -> AsyncIterator[str]:
    """The schema of the shop, whose rows no test changes."""
    driver = await new_schema_driver(postgres_url)
    await fill_shop(driver.pool)
    await count_history(driver.pool, hours=2)
    yield driver.schema
    await driver.pool.fetch(f"DROP SCHEMA {driver.schema} CASCADE")
    await driver.close()


@pytest.fixture(scope="session")
async def shop(postgres_url: str, shop_schema: str) -> AsyncIterator[str]:
    """The address of the page of the shop, once its server has collected the jobs of a bulk change."""
    collecting = f"SELECT FROM {shop_schema}.millhand_bulk_change WHERE state = 'collecting'"
    driver = AsyncpgDriver(postgres_url)
    await driver.open()
    with serving(shop_page(postgres_url, shop_schema)) as address:
        async with asyncio.timeout(GENEROUS_SECONDS):
            while await driver.pool.fetch(collecting):
                pass
        await driver.close()
        yield address


# Not longer than its tests: it logs that the one is away, which tests of logs would see.
@pytest.fixture(scope="module")
async def several_shops(postgres_url: str, shop_schema: str) -> AsyncIterator[str]:
    """The address of a page of three databases: production is the shop, staging has nothing, and one is away."""
    staging = await new_schema_driver(postgres_url)
    with serving(shops_page(postgres_url, shop_schema, staging.schema)) as address:
        yield address
    await staging.pool.fetch(f"DROP SCHEMA {staging.schema} CASCADE")
    await staging.close()


@pytest.fixture
def own_shop(postgres_url: str, schema_driver: AsyncpgDriver) -> Dashboard:
    """A page whose rows are the test's own."""
    return shop_page(postgres_url, schema_driver.schema)


@pytest.fixture
async def visit(chromium: Browser, shop: str) -> AsyncIterator[Visit]:
    """
    Start a visit of the shop's page, of an address, or of a page that is served as long as the test runs.

    Faults that a visitor found fail the test.
    """
    async with contextlib.AsyncExitStack() as stack:
        addresses: dict[int, str] = {}

        async def start(app: Dashboard | str | None = None, **options: object) -> Visitor:
            if isinstance(app, Dashboard) and id(app) not in addresses:
                addresses[id(app)] = stack.enter_context(serving(app))
            address = app if isinstance(app, str) else addresses.get(id(app), shop)
            return await stack.enter_async_context(visitor(chromium, address, **options))

        yield start
