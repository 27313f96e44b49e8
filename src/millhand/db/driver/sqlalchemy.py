"""The connections of a SQLAlchemy 2 engine as the pool of a driver."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy.exc
from sqlalchemy import Connection, Engine

from millhand.core.errors import ConfigError
from millhand.db.driver.driver import PoolAdapter
from millhand.db.driver.protocol import Driver
from millhand.db.driver.sqlalchemy_executor import (
    DRIVERS,
    SYNC_DRIVER,
    driver_connection_of,
    is_async_in_use,
    raise_driver_error,
)

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


class EnginePool(PoolAdapter):
    """An AsyncEngine's connections, with the pool methods of psycopg and of asyncpg."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._lent: dict[Any, AsyncConnection] = {}

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    async def getconn(self) -> Any:
        """Lend a driver connection, in no transaction. Raises: as the driver."""
        try:
            connection = await self._engine.connect()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise_driver_error(error)
        inner = await driver_connection_of(connection)
        self._lent[inner] = connection
        return inner

    async def putconn(self, inner: Any) -> None:
        """Take a connection back, and discard it if it was closed; a caller that is cancelled does not interrupt it."""
        await asyncio.shield(self._put_back(inner, self._lent.pop(inner)))

    async def _put_back(self, inner: Any, connection: AsyncConnection) -> None:
        if inner.is_closed() if hasattr(inner, "is_closed") else inner.closed:
            await connection.invalidate()
        await connection.close()

    acquire = getconn

    async def release(self, inner: Any, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's name
        """Take a connection back, as `putconn`."""
        await self.putconn(inner)


class SyncEnginePool(PoolAdapter):
    """An Engine's connections, with the methods of psycopg's pool. Concurrency: any number of threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lent: dict[Any, Connection] = {}

    def getconn(self, timeout: float | None = None) -> Any:
        """Lend a psycopg connection, in no transaction; the engine's pool has its own timeout."""
        try:
            connection = self._engine.connect()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise_driver_error(error)
        inner = connection.connection.driver_connection
        self._lent[inner] = connection
        return inner

    def putconn(self, inner: Any) -> None:
        """Take a connection back, and discard it if it was closed."""
        connection = self._lent.pop(inner)
        if inner.closed:
            connection.invalidate()
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
            connection.close()


def driver_on(database: object, schema: str) -> Driver | None:
    """
    Return a driver on an AsyncEngine's connections; None for anything else.

    Raises: ConfigError for an engine of another driver than asyncpg and psycopg.
    """
    if not is_async_in_use():
        return None
    from sqlalchemy.ext.asyncio import AsyncEngine  # noqa: PLC0415 - needs greenlet

    if not isinstance(database, AsyncEngine):
        return None
    if database.dialect.driver == "asyncpg":
        from millhand.db.driver.asyncpg import AsyncpgDriver  # noqa: PLC0415 - only what the engine has imported

        return AsyncpgDriver(EnginePool(database), schema)
    if database.dialect.driver == "psycopg":
        from millhand.db.driver.psycopg import PsycopgDriver  # noqa: PLC0415 - as above

        return PsycopgDriver(EnginePool(database), schema)
    raise _engine_error(database.dialect, *DRIVERS)


def sync_driver_on(database: object, schema: str) -> Driver | None:
    """
    Return a driver on an Engine's connections; None for anything else.

    Raises: ConfigError for an engine of another driver than psycopg.
    """
    if not isinstance(database, Engine):
        return None
    if database.dialect.driver != SYNC_DRIVER:
        raise _engine_error(database.dialect, SYNC_DRIVER)
    from millhand.db.driver.psycopg_sync import PsycopgSyncDriver  # noqa: PLC0415 - psycopg, which the engine has imported

    return PsycopgSyncDriver(SyncEnginePool(database), schema)


def _engine_error(dialect: sqlalchemy.engine.Dialect, *accepted: str) -> ConfigError:
    return ConfigError(
        f"engine must be of {' or '.join(accepted)}, got {dialect.name}+{dialect.driver}; "
        "make it of a URL that begins with 'postgresql+psycopg://'"
    )
