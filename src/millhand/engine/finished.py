"""Clean-up, and other work, that a cancel does not interrupt."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def finished(cleanup: Coroutine[Any, Any, T]) -> T:
    """
    Return the result of `cleanup` when it has ended, or raise its error.

    Concurrency: if the caller is cancelled meanwhile, the clean-up continues to its end, and then the cancel is raised.
    """
    task = asyncio.ensure_future(cleanup)
    cancel: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancel = error
    if cancel is not None:
        task.exception()  # read, because the event loop logs those that nothing reads
        raise cancel
    return task.result()
