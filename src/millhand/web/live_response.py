"""The answers of live updates: events, a fingerprint of each region for browsers that poll, and pages for all browsers."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Hashable, Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from millhand.shells.settings.web_user import User
from millhand.shells.web.page import Page, PageRequest
from millhand.web.live import Watcher, events, loaded_at


def live_response(watcher: Watcher, request: Request) -> Response:
    """Return server-sent events. Raises: HTTPException for a browser that is one too many; it polls instead."""
    if watcher.is_full:
        raise HTTPException(503, "Too many browsers listen; poll live-state.")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    since = loaded_at(request.query_params.get("since"))
    return StreamingResponse(events(watcher, since), media_type="text/event-stream", headers=headers)


def state_response(state: Mapping[str, str]) -> Response:
    """Return the fingerprints of a state."""
    regions = {region: hashlib.sha256(text.encode()).hexdigest()[:16] for region, text in state.items()}
    return Response(msgspec.json.encode({"regions": regions}), media_type="application/json")


class LivePages:
    """
    The pages that were loaded since the last look of the watcher.

    What changes later wakes the browsers again, so they miss nothing. Every other request loads the page itself.

    Concurrency: belongs to one event loop.
    """

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._look = ""
        self._locks: defaultdict[Hashable, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._pages: dict[Hashable, msgspec.Struct] = {}

    async def load(self, page: Page, asked: PageRequest, look: str) -> msgspec.Struct:
        """
        Return what a page shows; `look` is the one that woke the browser, or empty. Raises: as `Page.load`.

        Users without limits share a page if they have the same role; it is loaded without the name of any of them.
        """
        if not look or look != self._watcher.look or asked.user.is_limited:
            return await page.load(asked)
        if look != self._look:
            self._look, self._pages, self._locks = look, {}, defaultdict(asyncio.Lock)
        pages, user = self._pages, User(name="", role=asked.user.role)
        key = page.name, str(asked.path), str(asked.query), user.role, str(asked.zone)
        async with self._locks[key]:
            if key not in pages:
                pages[key] = await page.load(msgspec.structs.replace(asked, user=user))
            return pages[key]
