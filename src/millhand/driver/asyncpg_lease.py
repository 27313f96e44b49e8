"""
Connections of an asyncpg pool, lent for one statement or one transaction.

Releasing a connection to asyncpg's pool takes a task, a future, a timer and a turn of the event loop. For a small
statement that costs the client as much as everything else. So the connections of a pool that only Millhand uses stay
out after use, ready for the next statement:

Rule 1: a connection stays out only if its last use raised nothing and left no transaction open. Any other goes back
        through asyncpg's release, which waits for a cancelled statement, or is terminated. (A cancelled statement, or
        one with invalid params, may have been prepared but not executed. It leaves a transaction open that asyncpg does
        not know of, with its locks and its `now()`.)
Rule 2: waiters of the pool come first: while there are any, every connection goes back to the pool.
Rule 3: a connection that stays out unused is closed, as it would be in the pool. Each goes back now and then, because
        asyncpg replaces connections after many queries.

Of the caller's own pool no connection stays out: the application may wait for one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import asyncpg

from millhand.driver.asyncpg_error import WIRE_ERRORS, is_broken

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    AnyPool = asyncpg.Pool[Any]
    Lent = PoolConnectionProxy[Any]

# How long a late statement may take to be cancelled, before its connection is discarded.
RELEASE_SECONDS = 1.0
# asyncpg closes connections after five idle minutes, before firewalls drop them; here it takes up to twice this.
UNUSED_SECONDS = 150.0
# asyncpg replaces a connection after 50,000 queries, but only when it is released.
NUM_LENT_MAX = 1_000


class Leases:
    """
    A pool, and its connections that are out and unused.

    `keeps` is for a pool that only Millhand uses. Concurrency: belongs to the pool's event loop.
    """

    __slots__ = ("_keeps", "_kept", "_num_lent", "_num_unused", "_num_waiting", "_timer", "pool")

    def __init__(self, pool: AnyPool, *, keeps: bool) -> None:
        self.pool = pool
        self._keeps = keeps
        self._kept: list[Lent] = []  # the latest is lent first
        self._num_lent = 0
        self._num_unused = 0  # of `_kept`, from its beginning, not used since the timer was set
        self._num_waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def lease(self) -> _Lease:
        """Return a context manager that takes a connection and gives it back."""
        return _Lease(self)

    async def close(self) -> None:
        """Give unused connections back to the pool, so that it can close; used ones follow later. Never raises."""
        self._keeps = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._kept:
            await self.give_back(self._kept.pop(), None)

    async def take(self) -> Lent:
        """Return a connection for exclusive use. Raises: as asyncpg."""
        while self._kept:
            connection = self._kept.pop()
            self._num_unused = min(self._num_unused, len(self._kept))
            if not _is_closed(connection):
                return connection
            await self._release(connection)
        self._num_waiting += 1
        try:
            return await self.pool.acquire()
        finally:
            self._num_waiting -= 1

    async def give_back(self, connection: Lent, error: BaseException | None) -> None:
        """Take a connection back; `error` is what its last use raised. Raises nothing but a cancellation."""
        # asyncpg has already discarded a connection on which these are raised.
        with contextlib.suppress(*WIRE_ERRORS):
            is_open_ended = connection.is_in_transaction()
            if error is None and not is_open_ended and self._may_keep():
                self._keep(connection)
                return
            if is_open_ended or is_broken(error):
                connection.terminate()
            elif error is not None:
                await _finish_statement(connection)
            await self.pool.release(connection, timeout=RELEASE_SECONDS)

    def _may_keep(self) -> bool:
        self._num_lent += 1
        return self._keeps and not self._num_waiting and self._num_lent % NUM_LENT_MAX != 0

    def _keep(self, connection: Lent) -> None:
        self._kept.append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(UNUSED_SECONDS, self._close_unused)

    def _close_unused(self) -> None:
        self._timer = None
        unused, self._kept = self._kept[: self._num_unused], self._kept[self._num_unused :]
        for connection in unused:
            with contextlib.suppress(*WIRE_ERRORS):
                connection.terminate()
        self._num_unused = len(self._kept)
        if self._kept:
            self._timer = asyncio.get_running_loop().call_later(UNUSED_SECONDS, self._close_unused)

    async def _release(self, connection: Lent) -> None:
        with contextlib.suppress(*WIRE_ERRORS):
            await self.pool.release(connection, timeout=RELEASE_SECONDS)


class _Lease:
    """A connection for one block."""

    __slots__ = ("_connection", "_leases")

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def __aenter__(self) -> Lent:
        self._connection = await self._leases.take()
        return self._connection

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._leases.give_back(self._connection, error)


async def _finish_statement(connection: Lent) -> None:
    """Make the server end an unfinished statement, by a round trip; terminate the connection if that fails."""
    try:
        async with asyncio.timeout(RELEASE_SECONDS):
            await connection.execute("SELECT 1")
    except WIRE_ERRORS:
        connection.terminate()
    except BaseException:  # cancelled again: the connection would never be released
        connection.terminate()
        raise


def _is_closed(connection: Lent) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # it was lost, and the pool has it back
        return True
