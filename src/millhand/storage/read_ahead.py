"""Fetch pages one ahead of the reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

T = TypeVar("T")


async def read_ahead(submit: Callable[[], asyncio.Future[T | None]]) -> AsyncGenerator[T, None]:
    """Yield what `submit` returns until it is None, and fetch the next page while the caller works on this one."""
    coming = submit()
    try:
        while (page := await coming) is not None:
            coming = submit()
            yield page
    finally:
        # A caller that stops early must leave no running call and no unread exception behind.
        await asyncio.wait((coming,))
        if not coming.cancelled():
            coming.exception()
