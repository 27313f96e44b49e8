"""A client on a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from client_room import Room

from millhand.driver.asyncpg import AsyncpgDriver


@pytest.fixture
async def room(driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[Room]:
    """The default schema of this process's database, emptied afterwards; its first job has the id 1."""
    await driver.pool.fetch(
        "SELECT setval('river_job_id_seq', 1, false)"
    )  # a transaction rolled back counts on
    yield Room(driver, postgres_url)
    tables = "river_job, river_leader, river_queue, millhand_client, millhand_leader"
    await driver.pool.fetch(f"TRUNCATE {tables} RESTART IDENTITY")
