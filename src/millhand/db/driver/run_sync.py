"""Run coroutines that never wait, where there is no event loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from millhand.core.errors import ConfigError

T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    Run a coroutine that never waits for an event loop, and return its result.

    Raises: ConfigError for a hook or a middleware that does wait; else what the coroutine raises.
    """
    try:
        # asyncio.sleep(0) yields None and needs no loop.
        while (awaited := coroutine.send(None)) is None:
            pass
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise ConfigError(
        "hooks and middleware of a SyncClient must not wait for an event loop, got one that awaits "
        f"{type(awaited).__module__}.{type(awaited).__qualname__}; insert with Client, or do without"
    )
