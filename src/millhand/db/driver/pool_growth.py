"""
When a pool of Millhand's own may open another connection.

    two or fewer in use, or one is open and free  ──▶ use it at once
    else                                          ──▶ wait until another task returns one
    tasks wait for `GROW_SECONDS` without a gap   ──▶ the first of them opens one; after the same time, the next

A burst of short statements, as at the start of a worker, so needs two connections. Statements that are longer, or do not
end, get as many as the pool may have.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

# A fetch and a completion overlap. These connections are never closed while the pool is open.
NUM_WARM = 2
# How long tasks wait without a gap before one of them opens a connection.
GROW_SECONDS = 0.1
# A connection beyond the warm ones that is unused for this long to twice as long is closed.
UNUSED_SECONDS = 3.0


class PoolGrowth:
    """
    Counts the tasks that use a pool, and lets others wait.

    `num_open` returns how many connections the pool has, and `num_max` how many it may have. Each `enter` that returns
    needs one `leave`.
    Concurrency: belongs to the pool's event loop.
    """

    __slots__ = ("_num_max", "_num_open", "_num_used", "_timer", "_waiting")

    def __init__(self, num_open: Callable[[], int], num_max: int) -> None:
        self._num_max = num_max
        self._num_open = num_open
        self._num_used = 0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Return when the task may take a connection from the pool."""
        num_warm = min(NUM_WARM, self._num_max)
        if self._num_used < num_warm or self._num_used < self._num_open():
            self._num_used += 1
        else:
            await self._wait()

    def leave(self) -> None:
        """Count a connection that was returned, or was not made, and let the next task take one."""
        self._num_used -= 1
        self._admit_next()

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if self._timer is None:
            self._timer = loop.call_later(GROW_SECONDS, self._grow)
        try:
            await turn
        except BaseException:
            if not turn.cancelled():  # cancelled after it was admitted
                self.leave()
            raise

    def _admit_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else it was cancelled
                self._num_used += 1
                turn.set_result(None)
                return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _grow(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(GROW_SECONDS, self._grow)
        if self._num_used < self._num_max:
            self._admit_next()
