"""What the tests of the web page share: the application on a migrated schema, and a client that calls it in the process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.web import dashboard


@pytest.fixture
async def browser(schema_driver: AsyncpgDriver) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the page, on a schema that is the test's alone."""
    app = dashboard(schema_driver)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://page") as client:
        yield client
