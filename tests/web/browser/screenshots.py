"""
Take pictures of each view of the web page, at 1280 and 390 px, light and dark.

    python tests/web/browser/screenshots.py            all of them, into .screenshots/
    python tests/web/browser/screenshots.py jobs       those whose name contains a word
    python tests/web/browser/screenshots.py --url URL  of the page at an address, instead of the invented shop
    python tests/web/browser/screenshots.py --docs     those of the documentation, into docs/assets/
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from page_browser import DESKTOP, PHONE, chromium_path, launched
from page_server import serving, shop_page, shops_page
from page_views import PATHS, SEVERAL_PATHS
from PIL import Image
from playwright.async_api import Browser
from shop_rows import count_history, fill_shop

from lent_schema import migrate, new_schema_driver
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.embedded import embedded_postgres

DIRECTORY = Path(__file__).parents[3] / ".screenshots"
SIZES = {"1280": DESKTOP, "390": PHONE}
THEMES = ("light", "dark")
DOCS = Path(__file__).parents[3] / "docs" / "assets"
# Name of the picture in the documentation: path, size and theme.
PICTURES = {
    "web_overview": ("/", "1280", "light"),
    "web_jobs": ("/jobs?q=state:discarded,retryable", "1280", "light"),
    "web_job": ("/jobs/2", "1280", "dark"),
    "web_errors": ("/errors", "1280", "light"),
    "web_history": ("/history?range=24h", "1280", "dark"),
    "web_phone": ("/jobs/2", "390", "dark"),
}
NUM_COLOURS = 48  # as many as keep a picture below 60 kB


@contextlib.asynccontextmanager
async def served_shop() -> AsyncIterator[tuple[str, str]]:
    """Serve the page of the invented shop on a temporary database, alone and as one of several; return the addresses."""
    with tempfile.TemporaryDirectory(prefix="millhand-screenshots-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # root's PostgreSQL runs as another user
        with embedded_postgres(directory) as server:
            driver = AsyncpgDriver(server.url)
            await driver.open()
            await migrate(driver)
            await fill_shop(driver.pool)
            await count_history(driver.pool, hours=24)
            await driver.close()
            staging = await new_schema_driver(server.url)
            await staging.close()
            with (
                serving(shop_page(server.url)) as address,
                serving(shops_page(server.url, "public", staging.schema)) as several,
            ):
                yield address, several


async def take(browser: Browser, address: str, paths: Mapping[str, str]) -> None:
    """Take the pictures of some views. Each window is as high as the page."""
    for size, viewport in SIZES.items():
        for theme in THEMES:
            context = await browser.new_context(
                base_url=address, color_scheme=theme, is_mobile=viewport is PHONE, viewport=viewport
            )
            page = await context.new_page()
            for name, path in paths.items():
                await page.set_viewport_size(viewport)
                await page.goto(path)
                height = await page.evaluate("document.documentElement.scrollHeight")
                await page.set_viewport_size({**viewport, "height": max(height, viewport["height"])})
                await page.screenshot(path=DIRECTORY / f"{name}_{size}_{theme}.png")
            await context.close()


async def take_for_docs(browser: Browser, address: str) -> None:
    """Take the pictures of the documentation. Each is as high as the window, and has few colours."""
    for name, (path, size, theme) in PICTURES.items():
        context = await browser.new_context(
            base_url=address, color_scheme=theme, is_mobile=size == "390", viewport=SIZES[size]
        )
        page = await context.new_page()
        response = await page.goto(path)
        if response is None or not response.ok:
            sys.exit(f"error: {path} must be answered with 200, got {response and response.status}")
        picture = Image.open(io.BytesIO(await page.screenshot()))
        few = picture.convert("RGB").quantize(
            NUM_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
        few.save(DOCS / f"{name}.png", optimize=True)
        await context.close()


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("word", nargs="?", default="")
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--url")
    options = parser.parse_args()
    path = chromium_path()
    if path is None:
        sys.exit("error: chromium must be on the PATH, found none; apt install chromium")
    DIRECTORY.mkdir(exist_ok=True)
    page = contextlib.nullcontext((options.url, None)) if options.url else served_shop()
    async with page as (address, several), launched(path) as browser:
        if options.docs:
            await take_for_docs(browser, address)
        else:
            for each, paths in ((address, PATHS), (several, SEVERAL_PATHS)):
                if each:
                    await take(
                        browser, each, {name: path for name, path in paths.items() if options.word in name}
                    )
    print(f"pictures are in {'docs/assets' if options.docs else DIRECTORY.name}/")


if __name__ == "__main__":
    asyncio.run(main())
