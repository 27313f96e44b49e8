from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from millhand.db.driver.asyncpg import AsyncpgDriver
from river_adapter import Adapter


@pytest.fixture
async def adapter(schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[Adapter]:
    """An adapter whose default schema is the test's own."""
    adapter = Adapter(postgres_url, schema=schema_driver.schema)
    yield adapter
    await adapter.session.close()
