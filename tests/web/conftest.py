"""What the tests of the web page share: the application on a migrated schema, and a client that calls it in the process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from counted_jobs import counted as counted  # noqa: PLC0414 - a fixture
from several import several
from visitors import USERS, bearer

from lent_schema import GENEROUS_SECONDS, lent
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.flows import page as flows
from millhand.shells.web import database
from millhand.web import Dashboard, WebConfig, dashboard, database_list, job_search, search_suggestions

DEADLINES = [
    (database, "STATEMENT_SECONDS"),
    (database_list, "ANSWER_SECONDS"),
    (flows, "GRAPH_SECONDS"),
    (job_search, "DEADLINE_SECONDS"),
    (job_search, "INDEX_SECONDS"),
    (search_suggestions, "SECONDS"),
]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements of the page may take as long as a busy machine needs; tests of the page's deadline set their own."""
    for module, name in DEADLINES:
        monkeypatch.setattr(module, name, GENEROUS_SECONDS)


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


@pytest.fixture
async def staging_driver(
    schema_drivers: list[AsyncpgDriver], postgres_url: str
) -> AsyncIterator[AsyncpgDriver]:
    """A second schema, for the database `staging` of a page with several."""
    async with lent(schema_drivers, postgres_url) as driver:
        yield driver


@pytest.fixture
async def several_page(
    schema_driver: AsyncpgDriver, staging_driver: AsyncpgDriver
) -> AsyncIterator[Dashboard]:
    """A page with the databases `production`, which is `schema_driver`, `staging`, and `away`, which nobody serves."""
    app = several(schema_driver, staging_driver)
    yield app
    await app.stop()
