from __future__ import annotations

import os
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from millhand.db.driver.asyncpg import AsyncpgDriver


@pytest.fixture(scope="session")
async def bare_url(postgres_server_url: str) -> AsyncIterator[str]:
    """The URL of a database of these tests alone, in which they create and drop schemas."""
    name = f"millhand_migrate_{os.getpid()}"
    server = await asyncpg.connect(postgres_server_url)
    await server.execute(f"CREATE DATABASE {name}")
    yield urlunsplit(urlsplit(postgres_server_url)._replace(path=f"/{name}"))
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


@pytest.fixture
async def bare(bare_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with only an empty schema `public`."""
    connection = await asyncpg.connect(bare_url)
    await connection.execute(
        "DROP SCHEMA IF EXISTS public, other_schema CASCADE; CREATE SCHEMA public; SET search_path TO public"
    )
    yield connection
    await connection.close()


@pytest.fixture
async def bare_driver(bare: asyncpg.Connection, bare_url: str) -> AsyncIterator[AsyncpgDriver]:
    """An open driver on the empty schema `public`."""
    driver = AsyncpgDriver(bare_url)
    await driver.open()
    yield driver
    await driver.close()
