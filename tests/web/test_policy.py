from __future__ import annotations

import httpx
import pytest
from visitors import USERS, bearer, visiting

from millhand.web.assets import asset_path

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@pytest.mark.parametrize("path", ["/", "/login", "/nowhere", "/api/v1/nowhere", "/static/nowhere"])
@pytest.mark.parametrize("name", ["nobody", "viewer"])
async def test_every_answer_has_the_headers_of_the_policy(path: str, name: str) -> None:
    """Pages, redirects and errors name what a browser may load, are kept nowhere and are shown in no frame."""
    async with visiting(users=USERS) as http:
        answer = await http.get(path, headers=bearer(name) if name != "nobody" else {})

    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"


async def test_assets_are_kept_and_open_to_everyone() -> None:
    """The stylesheet of the login page comes without a user, and a browser keeps it."""
    async with visiting(users=USERS) as http:
        answer = await http.get(asset_path("millhand.css"))

    assert isinstance(answer, httpx.Response)
    assert (answer.status_code, "immutable" in answer.headers["cache-control"]) == (200, True)
    assert answer.headers["content-security-policy"] == POLICY
