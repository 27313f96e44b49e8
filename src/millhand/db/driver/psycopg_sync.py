"""The driver of `SyncClient`: blocking psycopg 3, for code without an event loop. See `psycopg_sync_executor`."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, cast

import psycopg
import psycopg_pool

from millhand.core.errors import NotStarted, PoolClosed
from millhand.db.driver.driver import PoolAdapter, PooledDriver
from millhand.db.driver.psycopg_conninfo import conninfo
from millhand.db.driver.psycopg_error import translated
from millhand.db.driver.psycopg_sync_executor import Pool, PoolExecutor
from millhand.db.driver.translation import CONNECT_SECONDS
from millhand.db.driver.tx_executor import sync_executor_of
from millhand.db.driver.url import POOL_SIZE, unreadable_url
from millhand.db.query import TIMEOUT_SECONDS


class _OwnPool(NamedTuple):
    """A pool that the driver made, and the process that made it."""

    pool: psycopg_pool.ConnectionPool[Any]
    pid: int

    @property
    def is_forked(self) -> bool:
        """Whether it was made before a fork: two processes on one connection would read each other's answers."""
        return self.pid != os.getpid()


class PsycopgSyncDriver(PooledDriver):
    """
    One database by blocking psycopg: a pool of the caller's, or a URL.

    Concurrency: any number of threads.
    """

    _pool_type = psycopg_pool.ConnectionPool
    _pool_name = "a psycopg_pool.ConnectionPool"
    _find_executor = staticmethod(sync_executor_of)

    def __init__(
        self,
        pool_or_url: psycopg_pool.ConnectionPool[Any] | PoolAdapter | str,
        schema: str = "",
        *,
        pool_size: int = POOL_SIZE,
    ) -> None:
        super().__init__(pool_or_url, schema, pool_size)
        self._own: _OwnPool | None = None
        self._executor = PoolExecutor(self._require_pool, self.schema)

    async def open(self) -> None:
        if self._url is not None and (self._own is None or self._own.is_forked):
            with translated("connect", CONNECT_SECONDS):
                self._own = _OwnPool(self._make_pool(self._url), os.getpid())

    async def close(self) -> None:
        own, self._own = self._own, None
        if own is not None and not own.is_forked:  # after a fork its connections are the parent's
            own.pool.close(timeout=TIMEOUT_SECONDS)

    def _require_pool(self) -> Pool:
        if self._given is not None:
            return cast(Pool, self._given)
        own = self._own  # read once: another thread may open or close
        if own is None:
            raise NotStarted(is_sync=True)
        if own.is_forked:
            raise PoolClosed(
                "connect", "a pool of the process that this one is a fork of; start the client anew here"
            )
        return own.pool

    def _make_pool(self, url: str) -> psycopg_pool.ConnectionPool[Any]:
        try:
            address = conninfo(url)
            psycopg.connect(address).close()  # a pool would retry without an error
        except psycopg.ProgrammingError as error:
            raise unreadable_url(type(error).__name__) from None  # the cause may show a part of the password
        # Never prepared: a pooler may be between us and the server, and occasional inserts gain little.
        pool = psycopg_pool.ConnectionPool(
            address,
            kwargs={"autocommit": True, "prepare_threshold": None},
            min_size=1,
            max_size=self._pool_size,
            name="millhand",
            open=False,
        )
        pool.open(wait=True, timeout=CONNECT_SECONDS)
        return pool


def driver_on(database: object, schema: str) -> PsycopgSyncDriver | None:
    """Return a driver for a URL or a blocking psycopg pool; None for anything else."""
    if isinstance(database, str | psycopg_pool.ConnectionPool):
        return PsycopgSyncDriver(database, schema)
    return None
