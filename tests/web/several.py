"""Two databases on one page for tests: two migrated schemas of one server, and a third that nobody serves."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
from visitors import USERS, bearer

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web import Dashboard, UserConfig, WebConfig, dashboard
from millhand.web.credential import hashed_token

CLOSED_PORT = "postgresql://postgres@127.0.0.1:1/shop"
SEVERAL_USERS = USERS | {
    "mixed": UserConfig(
        token=hashed_token("mixed-token"), databases={"staging": "admin", "production": "viewer"}
    ),
    "staging": UserConfig(role="admin", token=hashed_token("staging-token"), databases={"staging": "admin"}),
}


def several(production: AsyncpgDriver, staging: AsyncpgDriver, **config: Any) -> Dashboard:
    databases = {"production": production, "staging": staging, "away": CLOSED_PORT}
    colors = {"production": "red", "staging": "green"}
    return dashboard(
        databases=databases, config=WebConfig(**{"users": SEVERAL_USERS, "colors": colors, **config})
    )


@contextlib.asynccontextmanager
async def browsing(app: Dashboard, name: str = "admin") -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the page for a user."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://page", headers=bearer(name)) as http:
        yield http
