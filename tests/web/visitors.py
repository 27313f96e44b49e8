"""Users of the page for tests, and a client of a page that reaches no database."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx

from millhand.testing import ManualClock
from millhand.web import Role, User, UserConfig, WebConfig, dashboard
from millhand.web.credential import hashed_password, hashed_token

NO_DATABASE = "postgresql://nowhere.invalid/page"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
PASSWORD = "correct horse"
ADMIN = User(name="ada", role=Role.ADMIN)
CHEAP_PASSWORD = hashed_password(PASSWORD, log2_rounds=1)
USERS = {
    "viewer": UserConfig(role="viewer", token=hashed_token("viewer-token")),
    "operator": UserConfig(role="operator", token=hashed_token("operator-token")),
    "admin": UserConfig(role="admin", token=hashed_token("admin-token")),
    "other": UserConfig(role="admin", token=hashed_token("other-token"), queues=("other",), kinds=("other",)),
    "ada": UserConfig(role="operator", password=CHEAP_PASSWORD),
}


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}-token"}


@contextlib.asynccontextmanager
async def visiting(
    *, base_url: str = "http://page", client: tuple[str, int] = ("192.0.2.7", 5_000), **config: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of a page that no database serves: a path without a page is 404 for a user, and closed for others."""
    app = dashboard(NO_DATABASE, WebConfig(**{"clock": ManualClock(START), **config}))
    transport = httpx.ASGITransport(app, client=client)
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as http:
        yield http


async def log_in(http: httpx.AsyncClient, **form: str) -> httpx.Response:
    return await http.post("/login", data={"name": "ada", "secret": PASSWORD, **form})


async def is_in(http: httpx.AsyncClient, **headers: str) -> bool:
    """Return whether the page knows the visitor."""
    answer = await http.get("/nowhere", headers=headers)
    assert answer.status_code in (303, 403, 404), answer.text
    return answer.status_code == 404
