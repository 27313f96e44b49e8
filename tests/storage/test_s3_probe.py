"""The probe of a server whose listing cannot be relied on. The contract suite tests the probe of all others."""

from __future__ import annotations

import pytest
from scripted_server import Response, page, scripted

from millhand.storage import ListingBroken, open_store


@pytest.mark.slow
async def test_a_listing_that_lacks_new_objects_fails_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a server does not list what was just put, the probe raises ListingBroken and names the missing keys."""

    def script(method: str, query: dict[str, str]) -> Response:
        return 200, page() if method == "GET" else b""

    with scripted(script, monkeypatch) as (url, _):
        store = open_store(url)
        with pytest.raises(ListingBroken) as broken:
            await store.probe()
        await store.aclose()

    assert str(broken.value).startswith(
        "probe must succeed, got a listing in pages of 1,000 without ['.millhand/probe/"
    )
    assert str(broken.value).endswith(
        "with [] and 0 keys where 7 were just put; such a listing proves nothing, use another server"
    )
