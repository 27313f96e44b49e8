"""Migrated schemas of the run's database, lent to one test after the other."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence

import asyncpg

from empty_schema import empty_schema
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator, lines

# How long anything may take that a test waits for; nothing waits this long unless it is broken.
GENEROUS_SECONDS = 20.0


@contextlib.asynccontextmanager
async def lent(
    drivers: list[AsyncpgDriver], url: str, *, keep: Sequence[str] = ()
) -> AsyncIterator[AsyncpgDriver]:
    """Lend one of `drivers`, or a new one, on a schema that is empty but for the tables of `keep`."""
    driver = drivers.pop() if drivers else await new_schema_driver(url)
    yield driver
    await driver.open()
    try:
        await empty_schema(driver.pool, timeout_seconds=GENEROUS_SECONDS, keep=keep)
    except BaseException:  # a test left a transaction open there
        await driver.close()
        raise
    drivers.append(driver)


async def new_schema_driver(url: str) -> AsyncpgDriver:
    """Return a driver, open, on a schema that is made and migrated for it."""
    schema = f"test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE SCHEMA {schema}")
    await connection.close()
    driver = AsyncpgDriver(url, schema)
    await driver.open()
    await migrate(driver)
    return driver


async def migrate(driver: AsyncpgDriver) -> None:
    """Apply every migration."""
    for line in lines():  # main sorts before millhand, which needs it
        await Migrator(driver, line).up()
