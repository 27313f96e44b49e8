"""Clean-up ends whatever becomes of its caller."""

from __future__ import annotations

import asyncio

import pytest

from millhand.engine.finished import finished


async def test_cancelled_caller_waits_for_the_clean_up_and_is_cancelled() -> None:
    """Two cancels change nothing of the clean-up; the caller ends cancelled, after it."""
    begun, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def clean_up() -> None:
        begun.set()
        await go_on.wait()
        ended.set()

    caller = asyncio.create_task(finished(clean_up()))
    await begun.wait()
    for _ in range(2):
        caller.cancel()
        await asyncio.sleep(0)
    is_waiting = not caller.done()
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (is_waiting, ended.is_set()) == (True, True)


async def test_error_of_the_clean_up_is_raised() -> None:
    """Without a cancel, the caller gets the error."""

    async def clean_up() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await finished(clean_up())
