"""
Deadlines of many attempts, for the price of one timer.

Attempts of one worker have one timeout, so the first to start is the first to be due: per length of timeout one
insertion-ordered dict and one timer for its head are enough. Most attempts end long before; taking one out of a dict is
cheaper than cancelling a timer of its own (0.2 against 1.3 µs), and `asyncio.timeout` costs 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """
    Calls `expire(item)` for each item that was not taken out in time.

    Units: seconds, of the event loop's clock. Concurrency: belongs to one event loop.
    """

    def __init__(self, expire: Callable[[T], None]) -> None:
        self._expire = expire
        self._queues: dict[float, _Queue[T]] = {}

    def add(self, item: T, timeout_seconds: float) -> None:
        """Begin to count; an item is in at most one time per length."""
        queue = self._queues.get(timeout_seconds)
        if queue is None:
            queue = self._queues[timeout_seconds] = _Queue(self._expire)
        due_at = queue.due_at[item] = queue.time() + timeout_seconds
        if queue.timer is None:
            queue.set_timer(due_at)

    def discard(self, item: T, timeout_seconds: float) -> None:
        """Stop to count; an item that is not in is none the worse."""
        queue = self._queues.get(timeout_seconds)
        if queue is not None:
            queue.due_at.pop(item, None)

    def close(self) -> None:
        """Forget everything; nothing expires any more."""
        for queue in self._queues.values():
            queue.close()
        self._queues.clear()


class _Queue(Generic[T]):
    __slots__ = ("_expire", "_loop", "due_at", "time", "timer")

    def __init__(self, expire: Callable[[T], None]) -> None:
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self.due_at: dict[T, float] = {}
        self.time = self._loop.time
        self.timer: asyncio.TimerHandle | None = None

    def set_timer(self, due_at: float) -> None:
        self.timer = self._loop.call_at(due_at, self._ring)

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.due_at.clear()

    def _ring(self) -> None:
        self.timer = None
        # A timer may fire a hair early, by the clock's resolution.
        horizon = self.time() + 1e-3
        expired = []
        for item, due_at in self.due_at.items():
            if due_at > horizon:
                self.set_timer(due_at)
                break
            expired.append(item)
        for item in expired:
            del self.due_at[item]
        for item in expired:
            self._expire(item)
