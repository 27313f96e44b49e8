"""Lets a call go on until a random moment, at which a test cancels it."""

from __future__ import annotations

import asyncio
import random

SECONDS_MAX = 0.01


async def some_turns(call: asyncio.Future[object], chosen: random.Random, turns_max: int) -> None:
    """Let a call go on for some turns of the event loop, or for some milliseconds."""
    if chosen.random() < 0.5:
        for _ in range(chosen.randrange(turns_max)):
            await asyncio.sleep(0)
    else:
        await asyncio.wait([call], timeout=chosen.random() * SECONDS_MAX)
