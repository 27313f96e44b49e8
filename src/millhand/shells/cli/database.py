"""The database of a command: that of DATABASE_URL or `--database`, or an embedded one in the working directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from millhand.core.errors import ConfigError, DriverError, OperationTimeout
from millhand.core.log.logger import logger_of
from millhand.core.secret import masked_url
from millhand.db.driver.detect import driver_at
from millhand.db.driver.protocol import Driver
from millhand.db.driver.url import checked_url, createdb_options
from millhand.db.schema.migrator import Migrator, lines
from millhand.shells.cli.output import NotDone
from millhand.shells.settings.databases import URL_VARIABLE
from millhand.shells.settings.load import Settings

T = TypeVar("T")

logger = logger_of(__name__)

# A worker that started a database of its own would look healthy, and work none of the jobs that are meant for it.
NO_DATABASE = (
    "DATABASE_URL must be set, got none; set it to your database, or start an embedded PostgreSQL in .millhand/postgres: "
    "with millhand worker --embedded, or for all commands with embedded = true in [database] of millhand.toml"
)


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """Where to connect, and whether the database is embedded, which Millhand migrates by itself."""

    is_embedded: bool
    url: str
    url_variable: str = URL_VARIABLE

    def driver(self, settings: Settings, pool_size: int | None = None) -> Driver:
        """Return the driver that the URL names, with the schema of the settings, and by default their pool size."""
        schema, pool_size = settings.get("database.schema"), pool_size or settings.get("database.pool_size")
        checked_url(self.url)  # outside: the URL is not of the section [database]
        with settings.errors_with_origin("database"):
            return driver_at(self.url, schema, pool_size=pool_size)


def require_database(settings: Settings) -> None:
    """Raise ConfigError without DATABASE_URL, unless the settings ask for an embedded database."""
    if settings.database_url is None and not settings.get("database.embedded"):
        raise ConfigError(NO_DATABASE)


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[Database]:
    """Yield the database. The last process that leaves an embedded database stops it. Raises: as `require_database`."""
    require_database(settings)
    if settings.database_url is not None:
        yield named_database(settings)
        return
    from millhand.embedded import project_postgres  # noqa: PLC0415 - unused with DATABASE_URL

    with project_postgres(Path.cwd()) as server:
        directory = server.data.parent
        data = os.path.relpath(directory)
        fields = {"version": server.version, "data": str(directory) if data.startswith("..") else data}
        logger.info("postgres joined" if server.is_joined else "postgres started", extra=fields)
        # A socket has no TLS, but asyncpg would apply a PGSSLMODE that is meant for other servers.
        yield Database(is_embedded=True, url=f"{server.url}&sslmode=disable")


def named_database(settings: Settings) -> Database:
    """Return the database whose URL the settings have from the environment. Raises: ConfigError without one."""
    if settings.database_url is None:
        raise ConfigError(NO_DATABASE)
    return Database(is_embedded=False, url=settings.database_url, url_variable=settings.url_variable)


@contextlib.asynccontextmanager
async def opened(driver: Driver, url: str, url_variable: str = URL_VARIABLE) -> AsyncIterator[Driver]:
    """
    Yield the driver of `url`, which `url_variable` has, with its pool open.

    Raises: NotDone, with the masked URL, if it cannot connect.
    """
    try:
        await driver.open()
    except (DriverError, OperationTimeout) as error:
        reason = error.reason if isinstance(error, DriverError) else f"no answer within {error.seconds:g} s"
        has_remedy = "; create it: " in reason
        reason = reason.replace("; create it: createdb ", f"; create it: createdb {createdb_options(url)}")
        remedy = "" if has_remedy else f"; check that the server runs and that {url_variable} is right"
        raise NotDone(
            f"database {masked_url(url)!r} must accept connections, got {reason}{remedy}"
        ) from error
    try:
        yield driver
    finally:
        await driver.close()


def run_with_driver(
    settings: Settings,
    work: Callable[[Driver], Awaitable[T]],
    *,
    migrates_embedded: bool = True,
    pool_size: int | None = None,
) -> T:
    """Run `work` with an open driver on the database of the settings, and return its result."""

    async def go(base: Database) -> T:
        async with opened(base.driver(settings, pool_size), base.url, base.url_variable) as driver:
            if base.is_embedded and migrates_embedded:
                await migrate_all_lines(driver)
            return await work(driver)

    with database(settings) as base:
        return asyncio.run(go(base))


async def migrate_all_lines(driver: Driver) -> None:
    for line in lines():
        steps = await Migrator(driver, line).up()
        if steps:  # another worker may have applied them
            versions = {"from": steps[0].version - 1, "to": steps[-1].version}
            logger.info("schema migrated", extra={"line": line, **versions})
