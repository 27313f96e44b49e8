"""A limit on the calls of one process."""

from __future__ import annotations

import asyncio


class RateLimited(Exception):
    """No call is allowed for a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no call is allowed for {seconds:.1f} s")
        self.seconds = seconds


class RateLimit:
    """
    Spaces calls evenly, and holds all of them back when the server asks for it.

    Concurrency: any number of tasks of one event loop; they go in the order in which they came.
    """

    def __init__(self, *, per_minute: float) -> None:
        self._interval = 60 / per_minute
        self._lock = asyncio.Lock()
        self._next_at = 0.0

    async def wait(self, *, at_most: float) -> None:
        """Wait until the next call is allowed. Raises: RateLimited if that takes too long."""
        clock = asyncio.get_running_loop().time
        async with self._lock:
            # A pause may move the time meanwhile.
            while (seconds := self._next_at - clock()) > 0:
                if seconds > at_most:
                    raise RateLimited(seconds)
                await asyncio.sleep(seconds)
            self._next_at = clock() + self._interval

    def pause(self, seconds: float) -> None:
        """Allow no call for so long."""
        self._next_at = max(self._next_at, asyncio.get_running_loop().time() + seconds)
