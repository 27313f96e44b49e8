"""The driver that the engine runs on by default: asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from millhand.db.driver.asyncpg_error import WIRE_ERRORS, AnyConnection, translated, url_error
from millhand.db.driver.asyncpg_executor import PoolExecutor
from millhand.db.driver.asyncpg_lease import Leases
from millhand.db.driver.asyncpg_listener import AsyncpgListener
from millhand.db.driver.driver import PLANNER_SETTINGS, PoolAdapter, PooledDriver
from millhand.db.driver.pool_growth import NUM_WARM, UNUSED_SECONDS
from millhand.db.driver.tls import require_files, require_no_system_store
from millhand.db.driver.translation import CONNECT_SECONDS
from millhand.db.driver.tx_executor import executor_of
from millhand.db.driver.url import POOL_SIZE
from millhand.db.query import TIMEOUT_SECONDS

if TYPE_CHECKING:
    AnyPool = asyncpg.Pool[Any]


class AsyncpgDriver(PooledDriver):
    """
    One database by asyncpg: a pool of the caller's, or a URL.

    Concurrency: belongs to the event loop in which it was opened; may be opened again after it was closed.
    """

    _pool_type = asyncpg.Pool
    _pool_name = "an asyncpg.Pool"
    _find_executor = staticmethod(executor_of)

    def __init__(
        self, pool_or_url: AnyPool | PoolAdapter | str, schema: str = "", *, pool_size: int = POOL_SIZE
    ) -> None:
        super().__init__(pool_or_url, schema, pool_size)
        self._executor: PoolExecutor = PoolExecutor(self.schema)

    def listener(self) -> AsyncpgListener:
        """Return a listener on a connection of its own; it comes from the caller's pool, if there is one."""
        return AsyncpgListener(self._connect, self._release, self.schema)

    async def open(self) -> None:
        if self._executor.leases is not None:
            return
        with translated("connect", CONNECT_SECONDS):
            async with asyncio.timeout(CONNECT_SECONDS):
                pool = await (self._given or self._make_pool())
        self._executor.leases = Leases(pool, keeps=self._url is not None)

    async def close(self) -> None:
        executor = self._executor
        open = [one for one in (executor.plain_leases, executor.leases) if one is not None]
        executor.plain_leases = executor.leases = None
        own = open if self._url is not None else []
        try:
            for leases in own:
                with contextlib.suppress(*WIRE_ERRORS):
                    async with asyncio.timeout(TIMEOUT_SECONDS):
                        await leases.close()
                        await leases.pool.close()
        finally:
            for leases in own:  # after a timeout or a cancellation; does nothing to a pool that is closed
                leases.pool.terminate()

    async def _make_pool(self) -> AnyPool:
        url = self._url or ""
        require_no_system_store(url)
        min_size = min(NUM_WARM, self._pool_size)
        try:
            pool = await self._connect_pool(url, PLANNER_SETTINGS, min_size)
        except asyncpg.PostgresError as error:
            if "unsupported startup parameter" not in str(error):
                raise
            # A pooler between us and the server does not know the settings. Set later, they would stay on a connection
            # that the pooler gives to others.
            return await self._connect_pool(url, {}, min_size)
        plain = await self._connect_pool(url, {"jit": PLANNER_SETTINGS["jit"]}, 0)
        self._executor.plain_leases = Leases(plain, keeps=False)
        return pool

    async def _connect_pool(self, url: str, settings: Mapping[str, str], min_size: int) -> AnyPool:
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=0,  # else the pool logs each connection that it cannot make, with a traceback
                max_size=self._pool_size,
                max_inactive_connection_lifetime=2 * UNUSED_SECONDS,  # of those that no lease keeps
                reset=_keep_session,
                timeout=CONNECT_SECONDS,
                server_settings={**_server_settings(url), **settings},
            )
            await _warm(pool, min_size)
        except ssl.SSLError:
            raise  # a ValueError too, but about what the server sent
        except (ValueError, OverflowError) as error:
            raise url_error(error) from None  # the cause may show a part of the password
        except (FileNotFoundError, PermissionError):
            require_files(url)  # raises an error that names the option
            raise
        return pool

    async def _connect(self) -> AnyConnection:
        if self._url is None:
            return await self._executor.require_leases().pool.acquire()
        return await asyncpg.connect(
            self._url, timeout=CONNECT_SECONDS, server_settings=_server_settings(self._url)
        )

    async def _release(self, connection: AnyConnection) -> None:
        # asyncpg's own pool notices a closed connection by itself; an adapter does not.
        if isinstance(self._given, PoolAdapter):
            await self._given.release(connection)  # type: ignore[attr-defined]  # it has a pool's methods


def driver_on(database: object, schema: str) -> AsyncpgDriver | None:
    """Return a driver for a URL or an asyncpg pool; None for anything else."""
    return AsyncpgDriver(database, schema) if isinstance(database, str | asyncpg.Pool) else None


async def _warm(pool: AnyPool, num: int) -> None:
    """Make the first connections of a pool, or terminate it. Raises: as asyncpg."""
    try:
        for connection in [await pool.acquire() for _ in range(num)]:
            await pool.release(connection)
    except BaseException:
        pool.terminate()
        raise


async def _keep_session(connection: asyncpg.Connection[Any]) -> None:
    """Reset nothing: Millhand changes no session settings, and asyncpg's own reset is a round trip."""


def _server_settings(url: str) -> dict[str, str]:
    return {} if "application_name" in parse_qs(urlsplit(url).query) else {"application_name": "millhand"}
