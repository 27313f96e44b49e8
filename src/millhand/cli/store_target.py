"""Run a command's work with the database and the object store of the settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from millhand.cli.database import run_with_driver
from millhand.driver.protocol import Driver, Executor
from millhand.schema.migrator import require_schema
from millhand.secret import masked_url
from millhand.settings.load import DEFAULT, Settings
from millhand.storage import ObjectStore, open_store

T = TypeVar("T")

LINE_MILLHAND = "millhand"


def shown_store(settings: Settings) -> str:
    """Return the URL of the store with secrets masked, for questions and messages."""
    return masked_url(settings.get("storage.url"))


def run_with_store(settings: Settings, work: Callable[[Executor, ObjectStore], Awaitable[T]]) -> T:
    """Run `work` with an open pool and the store, and return its result."""
    with settings.errors_with_origin("storage"):
        store = open_store(settings.get("storage.url"), create=settings.origin("storage.url") == DEFAULT)

    async def go(driver: Driver) -> T:
        try:
            await require_schema(driver.pool, driver.schema, LINE_MILLHAND)
            return await work(driver.pool, store)
        finally:
            await store.aclose()

    return run_with_driver(settings, go)
