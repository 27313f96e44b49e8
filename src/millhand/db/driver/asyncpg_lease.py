"""
Connections of an asyncpg pool, leased for one statement or one transaction.

Releasing a connection to asyncpg's pool takes a task, a future, a timer and a turn of the event loop. For a small
statement, that doubles the cost. So Millhand keeps the connections of its own pool after use, for the next statement:

Rule 1: a connection is kept only if its last use raised nothing and left no transaction open. After an error it is
        released, once the server has ended the statement and its transaction: a cancelled BEGIN may succeed. With a
        transaction that was left open without an error, it is terminated.
Rule 2: a kept connection that is not used is closed, except the last two. Each is released now and then, because asyncpg
        then replaces connections that ran many queries.
Rule 3: a third connection opens only after some waiting: see `pool_growth`. So no task waits for asyncpg's pool.

No connection of the caller's own pool is kept: the application may wait for one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import asyncpg

from millhand.db.driver.asyncpg_error import WIRE_ERRORS, is_broken
from millhand.db.driver.pool_growth import NUM_WARM, UNUSED_SECONDS, PoolGrowth

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    AnyPool = asyncpg.Pool[Any]
    Connection = PoolConnectionProxy[Any]

# How long the server may take to end a statement. After that, its connection is terminated.
RELEASE_SECONDS = 1.0
# asyncpg replaces a connection after 50,000 queries, but only when it is released.
NUM_LEASES_MAX = 1_000


class Leases:
    """
    Leases connections of a pool, and keeps them between leases if `keeps`.

    Concurrency: belongs to the pool's event loop.
    """

    __slots__ = ("_growth", "_keeps", "_kept", "_num_leases", "_num_unused", "_timer", "pool")

    def __init__(self, pool: AnyPool, *, keeps: bool) -> None:
        self.pool = pool
        self._growth = PoolGrowth(pool.get_size, pool.get_max_size()) if keeps else None
        self._keeps = keeps
        self._kept: list[Connection] = []  # the last one is leased next
        self._num_leases = 0
        self._num_unused = 0  # the first ones of `_kept`, not used since the timer started
        self._timer: asyncio.TimerHandle | None = None

    def lease(self) -> _Lease:
        """Return a context manager that leases one connection."""
        return _Lease(self)

    async def close(self) -> None:
        """Release kept connections, so that the pool can close. Those in use are released after use. Never raises."""
        self._keeps = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._kept:
            await self._put_back(self._kept.pop(), None)

    async def take(self) -> Connection:
        """Return a connection for exclusive use. Raises: as asyncpg."""
        if self._growth is None:
            return await self._take()
        await self._growth.enter()
        try:
            return await self._take()
        except BaseException:
            self._growth.leave()
            raise

    async def _take(self) -> Connection:
        while self._kept:
            connection = self._kept.pop()
            self._num_unused = min(self._num_unused, len(self._kept))
            if not _is_closed(connection):
                return connection
            with contextlib.suppress(*WIRE_ERRORS):
                await self.pool.release(connection, timeout=RELEASE_SECONDS)
        return await self.pool.acquire()

    async def put_back(self, connection: Connection, error: BaseException | None) -> None:
        """Keep or release a connection; `error` is what its last use raised. Raises only a cancellation."""
        try:
            await self._put_back(connection, error)
        finally:
            if self._growth is not None:
                self._growth.leave()

    async def _put_back(self, connection: Connection, error: BaseException | None) -> None:
        # If these are raised, asyncpg has already discarded the connection.
        with contextlib.suppress(*WIRE_ERRORS):
            is_in_transaction = connection.is_in_transaction()
            if error is None and not is_in_transaction and self._may_keep():
                self._keep(connection)
                return
            if is_broken(error) or (error is None and is_in_transaction):
                connection.terminate()
            elif error is not None:
                try:
                    await _end_statement(connection)
                except (
                    BaseException
                ):  # cancelled meanwhile: terminated, but an adapter's pool still counts it
                    with contextlib.suppress(*WIRE_ERRORS):
                        await self.pool.release(connection, timeout=RELEASE_SECONDS)
                    raise
            await self.pool.release(connection, timeout=RELEASE_SECONDS)

    def _may_keep(self) -> bool:
        self._num_leases += 1
        return self._keeps and self._num_leases % NUM_LEASES_MAX != 0

    def _keep(self, connection: Connection) -> None:
        self._kept.append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(UNUSED_SECONDS, self._close_unused)

    def _close_unused(self) -> None:
        self._timer = None
        num_leased = self.pool.get_size() - self.pool.get_idle_size()
        num = max(0, min(self._num_unused, num_leased - NUM_WARM))
        unused, self._kept = self._kept[:num], self._kept[num:]
        for connection in unused:
            with contextlib.suppress(*WIRE_ERRORS):
                connection.terminate()
        self._num_unused = len(self._kept)
        if self._kept:
            self._timer = asyncio.get_running_loop().call_later(UNUSED_SECONDS, self._close_unused)


class _Lease:
    """Leases a connection for one block."""

    __slots__ = ("_connection", "_leases")

    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def __aenter__(self) -> Connection:
        self._connection = await self._leases.take()
        return self._connection

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._leases.put_back(self._connection, error)


async def _end_statement(connection: Connection) -> None:
    """
    Wait until the server has ended a statement, by a round trip, and roll back. Terminate the connection if that fails.

    The statement may have been a BEGIN, so the transaction may be known only after the round trip.
    """
    try:
        async with asyncio.timeout(RELEASE_SECONDS):
            if not connection.is_in_transaction():
                await connection.execute("SELECT 1")
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
    except WIRE_ERRORS:
        connection.terminate()
    except BaseException:  # cancelled again: the connection would never be released
        connection.terminate()
        raise


def _is_closed(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # it was lost, and the pool has it back
        return True
