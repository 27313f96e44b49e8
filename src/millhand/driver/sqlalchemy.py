"""
SQLAlchemy 2, asynchronous, on psycopg or asyncpg: the connection beneath, without taking it out of its transaction.

Before anything is said on that connection SQLAlchemy is in a transaction as it would be for any statement of its own:
it begins by itself, so that its commit commits our statements and its rollback undoes them.

Its asynchronous part needs greenlet, which whoever uses the other one need not have: it is imported by its users alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import sqlalchemy.exc

from millhand.driver.borrowed_pool import BorrowedPool
from millhand.driver.detect import executor_of
from millhand.driver.protocol import Driver, Executor
from millhand.errors import ConfigError
from millhand.store.query import TIMEOUT_SECONDS, Copy, Query

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session

T = TypeVar("T")

DRIVERS = ("asyncpg", "psycopg")
# What has SQLAlchemy, and the driver beneath it, begin a transaction if none is open.
BEGIN = "SELECT 1"


class ReachedExecutor:
    """All words on the connection beneath SQLAlchemy's, one at a time, in SQLAlchemy's transaction."""

    __slots__ = ("_reach",)

    def __init__(self, reach: Callable[[], Awaitable[Executor]]) -> None:
        self._reach = reach

    async def run(self, query: Query[T]) -> T:
        """Run `query`; one at a time."""
        return await (await self._reach()).run(query)

    def begin(self) -> AbstractAsyncContextManager[Executor]:
        """Begin a savepoint, or a transaction if SQLAlchemy commits each statement."""
        return self._begin()

    async def copy(self, copy: Copy) -> int:
        """Copy rows into a table."""
        return await (await self._reach()).copy(copy)

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        """Run SQL that is not ours."""
        return await (await self._reach()).fetch(sql, params, timeout_seconds=timeout_seconds)

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        """Run several statements."""
        await (await self._reach()).execute_script(sql, timeout_seconds=timeout_seconds)

    @contextlib.asynccontextmanager
    async def _begin(self) -> AsyncIterator[Executor]:
        async with (await self._reach()).begin() as executor:
            yield executor


class EnginePool(BorrowedPool):
    """The connections of an AsyncEngine, with the words of psycopg's pool and with those of asyncpg's."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._lent: dict[Any, AsyncConnection] = {}

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    async def acquire(self) -> Any:
        """Lend a connection of the driver's beneath, in no transaction. Raises: what the driver raises."""
        try:
            connection = await self._engine.connect()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise_beneath(error)
        beneath = await _beneath(connection)
        self._lent[beneath] = connection
        return beneath

    async def release(self, beneath: Any, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's word
        """Take a connection back; one that was closed is forgotten."""
        connection = self._lent.pop(beneath)
        if _is_closed(beneath):
            await connection.invalidate()
        await connection.close()

    async def getconn(self) -> Any:
        """Lend, as psycopg's pool says it."""
        return await self.acquire()

    async def putconn(self, beneath: Any) -> None:
        """Take back, as psycopg's pool says it."""
        await self.release(beneath)


def executor_inside(tx: object, schema: str) -> Executor | None:
    """Return an executor on a connection or a session of SQLAlchemy's; None for anything else."""
    if isinstance(tx, ReachedExecutor) or not _is_asynchronous_in_use():
        return tx if isinstance(tx, ReachedExecutor) else None
    from sqlalchemy.ext.asyncio import (  # noqa: PLC0415 - it is in use
        AsyncConnection,
        AsyncSession,
        async_scoped_session,
    )

    if isinstance(tx, AsyncConnection):
        return ReachedExecutor(lambda: _reached(tx, schema))
    if isinstance(tx, AsyncSession | async_scoped_session):
        return ReachedExecutor(lambda: _reached_in_session(tx, schema))
    return None


def driver_on(database: object, schema: str) -> Driver | None:
    """
    Return a driver on the connections of an engine; None for anything else.

    Raises: ConfigError for an engine of another driver.
    """
    if not _is_asynchronous_in_use():
        return None
    from sqlalchemy.ext.asyncio import AsyncEngine  # noqa: PLC0415 - it is in use

    if not isinstance(database, AsyncEngine):
        return None
    if database.dialect.driver == "asyncpg":
        from millhand.driver.asyncpg import AsyncpgDriver  # noqa: PLC0415 - only what the engine has imported

        return AsyncpgDriver(EnginePool(database), schema)
    if database.dialect.driver == "psycopg":
        from millhand.driver.psycopg import PsycopgDriver  # noqa: PLC0415 - as above

        return PsycopgDriver(EnginePool(database), schema)
    raise ConfigError(
        f"engine must be of {' or '.join(DRIVERS)}, got {database.dialect.name}+{database.dialect.driver}; "
        "make it of a URL that begins with 'postgresql+psycopg://'"
    )


def _is_asynchronous_in_use() -> bool:
    """Whether anybody has imported SQLAlchemy's asynchronous part, and there may be objects of its."""
    return "sqlalchemy.ext.asyncio" in sys.modules


def raise_beneath(error: sqlalchemy.exc.SQLAlchemyError) -> NoReturn:
    """Raise what an error of SQLAlchemy's is about, as the driver beneath raised it."""
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        raise TimeoutError(str(error)) from error
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        # With asyncpg there is one more layer, which makes its errors look like others'.
        is_adapted = type(error.orig).__module__.startswith("sqlalchemy.")
        beneath = error.orig.__cause__ if is_adapted else error.orig
        raise (beneath or error.orig) from error
    raise error


def refuse_driver(name: str) -> NoReturn:
    """Say that a connection is not on a driver that is known here. Raises: TypeError."""
    raise TypeError(f"tx must be on a connection of {' or '.join(DRIVERS)}, got SQLAlchemy on {name}")


async def _reached_in_session(session: AsyncSession | async_scoped_session[Any], schema: str) -> Executor:
    return await _reached(await session.connection(), schema)


async def _reached(connection: AsyncConnection, schema: str) -> Executor:
    if connection.dialect.driver not in DRIVERS:
        refuse_driver(f"{connection.dialect.name}+{connection.dialect.driver}")
    beneath = await _beneath(connection)
    if not (connection.in_transaction() and _is_in_transaction(beneath)):
        await connection.exec_driver_sql(BEGIN)
    return executor_of(beneath, schema)


async def _beneath(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection


def _is_in_transaction(beneath: Any) -> bool:
    if hasattr(beneath, "is_in_transaction"):  # asyncpg's
        return bool(beneath.is_in_transaction())
    return bool(beneath.info.transaction_status != 0)


def _is_closed(beneath: Any) -> bool:
    return bool(beneath.is_closed() if hasattr(beneath, "is_closed") else beneath.closed)
