"""Asynchronous code that never waits, run to its end where there is no event loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

from millhand.errors import ConfigError

T = TypeVar("T")


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    Run to its end what never waits for an event loop.

    Raises: ConfigError for a hook or a middleware that does; else what it raises.
    """
    try:
        while (
            awaited := coroutine.send(None)
        ) is None:  # None is asyncio.sleep(0): others may have their turn
            pass
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise ConfigError(
        "hooks and middleware of a SyncClient must not wait for an event loop, got one that awaits "
        f"{type(awaited).__module__}.{type(awaited).__qualname__}; insert with Client, or do without"
    )


def no_listener() -> NoReturn:
    """Say that nobody here could be rung."""
    raise ConfigError("a listener must have an event loop, got a blocking driver; work jobs with Client")
