from __future__ import annotations

import asyncio

import pytest

from millhand.core.errors import ConfigError
from millhand.db.driver.run_sync import run_sync


async def test_coroutine_that_waits_for_an_event_loop_is_an_error() -> None:
    """A coroutine that waits is an error and not a hang; `sleep(0)` is allowed."""
    turns = []

    async def waits() -> None:
        await asyncio.sleep(0)
        turns.append(1)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(ConfigError) as refused:
        run_sync(waits())

    assert turns == [1]
    assert str(refused.value) == (
        "hooks and middleware of a SyncClient must not wait for an event loop, got one that awaits "
        f"{type(asyncio.get_running_loop().create_future()).__module__}.Future; insert with Client, or do without"
    )
