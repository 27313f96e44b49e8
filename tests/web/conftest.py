"""What the tests of the web page share: the application on a migrated schema, and a client that calls it in the process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from counted_jobs import counted as counted  # noqa: PLC0414 - a fixture
from visitors import USERS, bearer

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.web import WebConfig, dashboard


@pytest.fixture
async def browser(schema_driver: AsyncpgDriver) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the page for an admin, on a schema that is the test's alone."""
    app = dashboard(schema_driver, WebConfig(users=USERS))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://page", headers=bearer("admin")
    ) as client:
        yield client
    await app.stop()
