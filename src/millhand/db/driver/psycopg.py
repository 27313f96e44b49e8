"""The driver by asynchronous psycopg 3."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
import psycopg_pool

from millhand.core.errors import NotStarted
from millhand.db.driver.driver import PoolAdapter, PooledDriver
from millhand.db.driver.pool_growth import NUM_WARM, PoolGrowth
from millhand.db.driver.psycopg_conninfo import conninfo
from millhand.db.driver.psycopg_deadline import RELEASE_SECONDS
from millhand.db.driver.psycopg_error import WIRE_ERRORS, within
from millhand.db.driver.psycopg_executor import AnyConnection, Pool, PoolExecutor
from millhand.db.driver.psycopg_listener import PsycopgListener
from millhand.db.driver.translation import CONNECT_SECONDS
from millhand.db.driver.tx_executor import executor_of
from millhand.db.driver.url import POOL_SIZE, unreadable_url
from millhand.db.query import TIMEOUT_SECONDS

# The pool closes one connection in this time, if it had an unused one for all of it.
SHRINK_SECONDS = 1.0


class PsycopgDriver(PooledDriver):
    """
    One database by psycopg: a pool of the caller's, or a URL.

    Concurrency: belongs to the event loop in which it was opened; may be opened again after it was closed.
    """

    _pool_type = psycopg_pool.AsyncConnectionPool
    _pool_name = "a psycopg_pool.AsyncConnectionPool"
    _find_executor = staticmethod(executor_of)

    def __init__(
        self,
        pool_or_url: psycopg_pool.AsyncConnectionPool[Any] | PoolAdapter | str,
        schema: str = "",
        *,
        pool_size: int = POOL_SIZE,
    ) -> None:
        super().__init__(pool_or_url, schema, pool_size)
        self._open_pool: Pool | None = None
        self._own_pool: psycopg_pool.AsyncConnectionPool[Any] | None = None
        self._executor = PoolExecutor(self._require_pool, self.schema, is_tuned=self._url is not None)

    def listener(self) -> PsycopgListener:
        """Return a listener on a connection of its own; it comes from the caller's pool, if there is one."""
        return PsycopgListener(self._connect, self._release, self.schema)

    async def open(self) -> None:
        if self._open_pool is None:
            self._open_pool = self._given or await within("connect", self._make_pool(), CONNECT_SECONDS)

    async def close(self) -> None:
        self._open_pool = None
        pool, self._own_pool = self._own_pool, None
        if pool is not None:
            with contextlib.suppress(*WIRE_ERRORS):
                await pool.close(timeout=TIMEOUT_SECONDS)

    def _require_pool(self) -> Pool:
        if self._open_pool is None:
            raise NotStarted
        return self._open_pool

    async def _make_pool(self) -> Pool:
        address, prepare_threshold = await self._probed(self._url or "")
        pool = psycopg_pool.AsyncConnectionPool(
            address,
            kwargs={"autocommit": True, "prepare_threshold": prepare_threshold},
            min_size=min(NUM_WARM, self._pool_size),
            max_size=self._pool_size,
            max_idle=SHRINK_SECONDS,
            name="millhand",
            open=False,
        )
        try:
            await pool.open(wait=True, timeout=CONNECT_SECONDS)
        except BaseException:  # the pool does not notice our deadline, and its tasks would retry for ever
            await pool.close(timeout=RELEASE_SECONDS)
            raise
        self._own_pool = pool
        return _GrowingPool(pool)

    async def _probed(self, url: str) -> tuple[str, int | None]:
        """Connect once and return the conninfo and prepare threshold that work; a pool would retry without an error."""
        try:
            tuned = conninfo(url, is_tuned=True)
            await _try(tuned)
        except psycopg.ProgrammingError as error:
            raise unreadable_url(type(error).__name__) from None  # the cause may show a part of the password
        except psycopg.OperationalError as error:
            if "unsupported startup parameter" not in str(error):
                raise
            # A pooler between us and the server does not know the settings, and may send each statement to another
            # server. Nothing may stay on a connection then, prepared statements included.
            plain = conninfo(url)
            await _try(plain)
            return plain, None
        return tuned, 0  # prepare at first use: the statements are few

    async def _connect(self) -> AnyConnection:
        if self._given is None:
            return await psycopg.AsyncConnection.connect(conninfo(self._url or ""), autocommit=True)
        connection = await self._require_pool().getconn()
        await connection.set_autocommit(True)
        return connection

    async def _release(self, connection: AnyConnection) -> None:
        if self._given is not None:
            await self._given.putconn(connection)


class _GrowingPool:
    """The driver's own pool, which grows as `pool_growth` says."""

    def __init__(self, pool: psycopg_pool.AsyncConnectionPool[AnyConnection]) -> None:
        self._pool = pool
        self._growth = PoolGrowth(lambda: pool.get_stats()["pool_size"], pool.max_size)

    async def getconn(self) -> AnyConnection:
        await self._growth.enter()
        try:
            return await self._pool.getconn()
        except BaseException:
            self._growth.leave()
            raise

    async def putconn(self, conn: AnyConnection) -> None:
        try:
            await self._pool.putconn(conn)
        finally:
            self._growth.leave()


def driver_on(database: object, schema: str) -> PsycopgDriver | None:
    """Return a driver for an asynchronous psycopg pool; None for anything else."""
    if isinstance(database, psycopg_pool.AsyncConnectionPool):
        return PsycopgDriver(database, schema)
    return None


async def _try(address: str) -> None:
    connection = await psycopg.AsyncConnection.connect(address, autocommit=True)
    await connection.close()
