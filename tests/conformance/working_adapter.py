"""Jobs that a running client of the adapter works."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from factory import GENEROUS_SECONDS
from river_adapter import Adapter


async def until_stats(adapter: Adapter, is_met: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Return the client's observations as soon as they meet the condition."""
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not is_met(stats := await adapter.call("runtime_stats")):
            pass
    return dict(stats)


async def worked(adapter: Adapter, behavior: str, *states: str, **more: Any) -> dict[str, Any]:
    """Insert a job and return it when it is in one of `states`; by default, when it has ended."""
    job = await adapter.call("insert", behavior=behavior, message=behavior, **more)
    return dict(await adapter.call("wait", id=job["id"], states=list(states)))
