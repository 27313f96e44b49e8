"""Run a command's work with the database and the object store of the settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from millhand.core.errors import ConfigError
from millhand.core.secret import masked_url
from millhand.db.driver.protocol import Driver, Executor
from millhand.db.schema.migrator import require_schema
from millhand.db.sql import LINE_MILLHAND
from millhand.shells.cli.database import run_with_driver
from millhand.shells.settings.load import DEFAULT, Settings
from millhand.storage import ObjectStore, open_store

T = TypeVar("T")

NO_URL = 'no [storage] url is set; write url = "file:./uploads" (or s3://…) in millhand.toml'


def shown_store(settings: Settings) -> str:
    """Return the URL of the store with secrets masked, for questions and messages. Raises: ConfigError, if none is set."""
    return masked_url(_url(settings))


def open_configured_store(settings: Settings) -> ObjectStore:
    """Return the store of the settings. It creates no directory. Raises: ConfigError, if no valid URL is set."""
    url = _url(settings)
    with settings.errors_with_origin("storage"):
        return open_store(url)


def _url(settings: Settings) -> str:
    # The default is a directory that the built-in worker creates. A person means another one.
    if settings.origin("storage.url") == DEFAULT:
        raise ConfigError(NO_URL)
    return str(settings.get("storage.url"))


def run_with_store(settings: Settings, work: Callable[[Executor, ObjectStore], Awaitable[T]]) -> T:
    """Run `work` with an open pool and the store, and return its result."""
    store = open_configured_store(settings)

    async def go(driver: Driver) -> T:
        try:
            await require_schema(driver.pool, driver.schema, LINE_MILLHAND)
            return await work(driver.pool, store)
        finally:
            await store.aclose()

    return run_with_driver(settings, go)
