"""How pages of a listing are requested, and how unexpected responses are handled."""

from __future__ import annotations

import pytest
from scripted_server import ERROR, Response, page, scripted

from millhand.storage import StoreError, open_store


async def listed(url: str, **question: object) -> list[str]:
    store = open_store(url)
    try:
        return [key async for found in store.list_pages(**question) for key in found.keys]  # type: ignore[arg-type]
    finally:
        await store.aclose()


def three_pages(method: str, query: dict[str, str]) -> Response:
    token = query.get("continuation-token", "1")
    return 200, page(f"r/{token}", token=None if token == "3 +/=" else {"1": "2", "2": "3 +/="}[token])


@pytest.mark.slow
async def test_later_pages_send_the_same_request_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page requested without botocore has the same parameters, a signature and the same user agent."""
    with scripted(three_pages, monkeypatch) as (url, requests):
        assert await listed(url, prefix="", page_size=7) == ["1", "2", "3 +/="]

        same = {"list-type": "2", "encoding-type": "url", "max-keys": "7", "prefix": "r/"}
        tokens = [{}, {"continuation-token": "2"}, {"continuation-token": "3 +/="}]
        assert requests.queries == [same | token for token in tokens]
        assert requests.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=millhand/")
        assert "Botocore/" in requests.headers["User-Agent"]
        # botocore itself sends this header.
        assert "amz-sdk-invocation-id" not in requests.headers


@pytest.mark.slow
@pytest.mark.parametrize(
    "hiccup",
    [(503, ERROR % b"SlowDown"), (200, ERROR % b"InternalError"), (500, b"")],
    ids=["503", "200", "500"],
)
async def test_a_failed_page_is_requested_again(hiccup: Response, monkeypatch: pytest.MonkeyPatch) -> None:
    """Botocore repeats a later page that failed, even one with status 200."""
    hiccups = [hiccup]

    def script(method: str, query: dict[str, str]) -> Response:
        if query.get("continuation-token") == "2" and hiccups:
            return hiccups.pop()
        return three_pages(method, query)

    with scripted(script, monkeypatch) as (url, _):
        assert await listed(url) == ["1", "2", "3 +/="]


@pytest.mark.slow
async def test_a_denied_page_fails_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that loses permission halfway gets the server's error, not a shorter listing."""

    def script(method: str, query: dict[str, str]) -> Response:
        if query.get("continuation-token") == "2":
            return 403, ERROR % b"AccessDenied"
        return three_pages(method, query)

    with scripted(script, monkeypatch) as (url, _), pytest.raises(StoreError) as denied:
        await listed(url)

    assert (str(denied.value), denied.value.is_denied) == ("list must succeed, got AccessDenied: later", True)


@pytest.mark.slow
async def test_a_listing_up_to_a_key_requests_no_page_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `up_to`, the listing ends with the page that reaches the key, and no other is requested."""
    with scripted(three_pages, monkeypatch) as (url, requests):
        assert await listed(url, up_to="2") == ["1", "2"]
        assert len(requests.queries) == 2
