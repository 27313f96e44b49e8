"""A schema with all tables of ours, for scripts that are no tests."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator

import asyncpg

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator, lines


async def migrate(url: str, schema: str = "") -> None:
    """Bring all tables to a schema, or to the first of the search path."""
    driver = AsyncpgDriver(url, schema)
    await driver.open()
    for line in lines():
        await Migrator(driver, line).up()
    await driver.close()


@contextlib.asynccontextmanager
async def new_schema(url: str, prefix: str) -> AsyncIterator[str]:
    """Make a migrated schema, and drop it in the end."""
    schema = f"{prefix}_{random.randrange(10**9)}"  # noqa: S311 - only new, not secret
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE SCHEMA {schema}")
    await migrate(url, schema)
    try:
        yield schema
    finally:
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
        await connection.close()
