"""
Timeouts of many attempts with one timer for each length.

Attempts with one timeout expire in the order in which they started, so a dict in insertion order and one timer for its head
are enough. Most attempts end long before: removing one from a dict takes 0.2 µs, cancelling a timer of its own 1.3 µs, and
`asyncio.timeout` takes 4 µs.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """
    Calls `expire(item)` for each item that was not discarded in time.

    Units: seconds, of the event loop's clock. Concurrency: belongs to one event loop.
    """

    def __init__(self, expire: Callable[[T], None]) -> None:
        self._expire = expire
        self._queues: dict[float, _Queue[T]] = {}

    def add(self, item: T, timeout_seconds: float) -> None:
        """Start a timeout; an item may have one of each length."""
        queue = self._queues.get(timeout_seconds)
        if queue is None:
            queue = self._queues[timeout_seconds] = _Queue(self._expire)
        due_at = queue.due_at[item] = queue.time() + timeout_seconds
        if queue.timer is None:
            queue.set_timer(due_at)

    def discard(self, item: T, timeout_seconds: float) -> None:
        """End a timeout; does nothing without one."""
        queue = self._queues.get(timeout_seconds)
        if queue is not None:
            queue.due_at.pop(item, None)

    def close(self) -> None:
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
        # With a context of its own: the attempt that sets the timer is not the one that expires, and must not be logged.
        self.timer = self._loop.call_at(due_at, self._expire_due, context=contextvars.Context())

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.due_at.clear()

    def _expire_due(self) -> None:
        self.timer = None
        # A timer may fire early by the clock's resolution.
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
