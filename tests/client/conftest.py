"""A client on a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from client_room import Room

from empty_schema import empty_schema
from factory import GENEROUS_SECONDS
from millhand.driver.asyncpg import AsyncpgDriver


@pytest.fixture
async def room(driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[Room]:
    """The default schema of this process's database, emptied afterwards; its first job has the id 1."""
    # A transaction that was rolled back does not give its ids back.
    await driver.pool.fetch("SELECT setval('river_job_id_seq', 1, false)")
    yield Room(driver, postgres_url)
    await empty_schema(driver.pool, timeout_seconds=GENEROUS_SECONDS)
