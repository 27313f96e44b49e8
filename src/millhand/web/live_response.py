"""The answers of live updates: events, and for browsers that poll a fingerprint of each region."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

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
