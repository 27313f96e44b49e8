"""
Ends a statement that waits for a lock, and finds who holds it.

A statement that is only slow goes on. One that waits for a user's transaction would hold a connection, and hold up the start
of its client, for as long as that transaction is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.sqlstate import LOCK_NOT_AVAILABLE
from millhand.db.driver.protocol import Executor
from millhand.db.lock import LockHolder, lock_list_holders
from millhand.db.query import Query

T = TypeVar("T")

LOCK_SECONDS = 1.0
NUM_CONNECTIONS = 4
# The longest pause before the statement is sent again.
AGAIN_SECONDS_MAX = 5.0


class Locked(DriverError):
    """A statement waited for a lock, and was ended. It may be repeated."""

    def __init__(self, operation: str, holders: Sequence[LockHolder]) -> None:
        names = " and ".join(map(str, holders))
        remedy = f"to end that transaction: SELECT pg_terminate_backend({holders[0].pid})"
        reason = f"a lock of {names}; {remedy}"
        super().__init__(operation, reason, retryable=True, sqlstate=LOCK_NOT_AVAILABLE)


class LockWaits:
    """
    Runs statements of one client that may wait for locks, and ends those that do.

    As many wait at once as leave one of the `num_connections` of the pool, by which it finds who holds the lock. None is for
    a pool of unknown size.
    Concurrency: belongs to one event loop.
    """

    def __init__(self, pool: Executor, num_connections: int | None = None) -> None:
        self._pool = pool
        self._room = asyncio.Semaphore(max((num_connections or NUM_CONNECTIONS) - 1, 1))

    async def run(self, query: Query[T]) -> T:
        """Run a statement that may be repeated. Raises: Locked; as `Executor.run`."""
        return await self.unless_locked(partial(self._pool.run, query), [query.name])

    async def unless_locked(self, step: Callable[[], Awaitable[T]], names: Sequence[str]) -> T:
        """
        Return what a step returns; cancel it if one of its statements, by name, waits for a lock after `LOCK_SECONDS`.

        Raises: Locked; as the step.
        """
        async with self._room:
            task = asyncio.ensure_future(step())
            try:
                while not (await asyncio.wait([task], timeout=LOCK_SECONDS))[0]:
                    holders = await self._holders(names)
                    if holders and not task.done():
                        raise Locked(names[0], holders)
                return task.result()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _holders(self, names: Sequence[str]) -> Sequence[LockHolder]:
        try:
            return await self._pool.run(lock_list_holders(names))
        except (DriverError, OperationTimeout):  # the step itself will learn why
            return ()
