"""A database for the examples, used by one after the other as a reader's is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from user_programs import fresh_database


@pytest.fixture(scope="session")
async def database_url(postgres_server_url: str) -> AsyncIterator[str]:
    """The URL of a migrated database for all examples."""
    async with fresh_database(postgres_server_url) as url:
        yield url
