"""
The connections of a pool of asyncpg's, lent for one word or one transaction.

asyncpg's way back to its pool is a task, a future, a timer and a turn of the event loop, which together cost the client
as much as all else that it does for a small statement. So of a pool that is ours alone a connection that comes back whole
stays out, for whoever is next:

Rule 1: only what nothing was raised on, and what is in no transaction, stays out. All else goes back the long way, on
        which a cancelled statement is waited for and the server is had to end what it has begun, or the connection is
        thrown away. (A statement that was prepared and not executed, because it was cancelled in between or its params
        were refused, leaves a transaction open of which asyncpg knows nothing: with its locks, and with its `now()`.)
Rule 2: whoever waits for the pool comes first: while anybody does, what comes back goes to the pool.
Rule 3: what stays out unused is closed, as it would be in the pool; and now and then each goes the long way, on which
        asyncpg renews what was used very often.

Of a pool of the caller's nothing stays out: others wait for it of whom nothing is known here.
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

# What a statement that ran out of time is given to be cancelled, before its connection is thrown away.
RELEASE_SECONDS = 1.0
# asyncpg closes what was idle for five minutes, before firewalls forget it; here it is up to twice this.
UNUSED_SECONDS = 150.0
# asyncpg renews a connection after 50,000 words, but only sees what comes back to it.
NUM_LENT_MAX = 1_000


class Leases:
    """
    A pool, and which of its connections are out without being used.

    `keeps` says that the pool is ours alone. Concurrency: belongs to the pool's event loop.
    """

    __slots__ = ("_keeps", "_kept", "_num_lent", "_num_unused", "_num_waiting", "_timer", "pool")

    def __init__(self, pool: AnyPool, *, keeps: bool) -> None:
        self.pool = pool
        self._keeps = keeps
        self._kept: list[Lent] = []  # the last one back is lent first
        self._num_lent = 0
        self._num_unused = 0  # of `_kept`, from its beginning, whom nobody has used since the timer was set
        self._num_waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def lent(self) -> _Lease:
        """Return what is entered for a connection, and left to give it back."""
        return _Lease(self)

    async def close(self) -> None:
        """Give back to the pool what nobody uses, so that it can close; what is still used follows. Never raises."""
        self._keeps = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._kept:
            await self.give_back(self._kept.pop(), None)

    async def take(self) -> Lent:
        """Return a connection that nobody else has. Raises: as asyncpg."""
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
        """Take back a connection, on which `error` was raised last. Never raises, unless it is cancelled."""
        # What these raise says that asyncpg has thrown the connection away already.
        with contextlib.suppress(*WIRE_ERRORS):
            is_open_ended = connection.is_in_transaction()
            if error is None and not is_open_ended and self._may_keep():
                self._keep(connection)
                return
            if is_open_ended or is_broken(error):
                connection.terminate()
            elif error is not None:
                await _settle(connection)
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
    """A connection while it is lent."""

    __slots__ = ("_connection", "_lending")

    def __init__(self, lending: Leases) -> None:
        self._lending = lending

    async def __aenter__(self) -> Lent:
        self._connection = await self._lending.take()
        return self._connection

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._lending.give_back(self._connection, error)


async def _settle(connection: Lent) -> None:
    """End whatever the server has begun, by a round trip; throw a connection away on which that cannot be done."""
    try:
        async with asyncio.timeout(RELEASE_SECONDS):
            await connection.execute("SELECT 1")
    except WIRE_ERRORS:
        connection.terminate()
    except BaseException:  # cancelled once more: nobody comes to give it back
        connection.terminate()
        raise


def _is_closed(connection: Lent) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # it was lost, and is the pool's again
        return True
