"""Timeouts of many attempts with one timer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.core.log.context_fields import current_attempt
from millhand.engine.attempt import Deadlines

GENEROUS = 10.0


async def test_deadlines_expire_in_order_unless_discarded() -> None:
    """Each item that was not discarded expires once."""
    expired: list[str] = []
    done = asyncio.Event()

    def expire(item: str) -> None:
        expired.append(item)
        if item == "last":
            done.set()

    deadlines = Deadlines(expire)
    for item in ("first", "taken out", "last"):
        deadlines.add(item, 0.01)
    deadlines.add("much later", 60.0)
    deadlines.discard("taken out", 0.01)

    await asyncio.wait_for(done.wait(), GENEROUS)
    deadlines.close()

    assert expired == ["first", "last"]


async def test_deadlines_restart_after_they_ran_empty() -> None:
    """An item added after the timer found nothing expires too."""
    expired: asyncio.Queue[str] = asyncio.Queue()
    deadlines = Deadlines(expired.put_nowait)

    deadlines.add("one", 0.0)
    first = await asyncio.wait_for(expired.get(), GENEROUS)
    deadlines.add("two", 0.0)
    second = await asyncio.wait_for(expired.get(), GENEROUS)
    deadlines.close()

    assert (first, second) == ("one", "two")


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_deadlines_expire_exactly_what_was_not_discarded(steps: list[tuple[int, bool]]) -> None:
    """For any sequence of adds and discards, exactly the remaining items expire."""

    async def play() -> tuple[set[int], set[int]]:
        expired: set[int] = set()
        deadlines = Deadlines(expired.add)
        kept: set[int] = set()
        for item, is_added in steps:
            if is_added:
                deadlines.add(item, 0.002)
                kept.add(item)
            else:
                deadlines.discard(item, 0.002)
                kept.discard(item)
        guard: asyncio.Queue[str] = asyncio.Queue()
        after = Deadlines(guard.put_nowait)
        after.add("after", 0.006)
        await asyncio.wait_for(guard.get(), GENEROUS)
        deadlines.close()
        after.close()
        return expired, kept

    expired, kept = asyncio.run(play())

    assert expired == kept


async def test_expiry_runs_outside_of_the_attempt_that_set_the_timer() -> None:
    """A line about an attempt that expires names no other attempt: the timer was set by the first of them."""
    seen: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    deadlines: Deadlines[str] = Deadlines(lambda _: seen.set_result(current_attempt.get()))

    async def attempt() -> None:
        current_attempt.set((7, "act", "default", 2))
        deadlines.add("a", 0.0)

    await asyncio.create_task(attempt())

    assert await asyncio.wait_for(seen, 20.0) is None
    deadlines.close()
