"""Fixtures of the tests of the limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from client_harness import harness  # noqa: F401 - a fixture
from limited_queue import LimitedQueue
from millhand.db.driver.asyncpg import AsyncpgDriver


@pytest.fixture
async def limited_driver(schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[AsyncpgDriver]:
    """A driver for concurrent transactions; statements that name no schema find the tables of the test's own."""
    parts = urlsplit(postgres_url)
    query = "&".join(filter(None, [parts.query, f"search_path={schema_driver.schema}"]))
    driver = AsyncpgDriver(urlunsplit(parts._replace(query=query)), pool_size=20)
    await driver.open()
    yield driver
    await driver.close()


@pytest.fixture
def shared_queue(limited_driver: AsyncpgDriver) -> LimitedQueue:
    """A limited queue whose statements each commit, by the database's clock."""
    return LimitedQueue(limited_driver.pool, "limited", now=None)
