"""
Statements on the driver connection of a SQLAlchemy 2 connection: asyncpg's or psycopg's.

SQLAlchemy must be in a transaction before Millhand's first statement, so that its commit and rollback include
Millhand's. Where it is not, the executor sends one statement through SQLAlchemy, which begins one.

SQLAlchemy's asynchronous package needs greenlet, which synchronous users may lack: only functions import it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import sqlalchemy.exc
from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from millhand.db.driver.executor import DelegatingExecutor
from millhand.db.driver.protocol import Executor
from millhand.db.query import Copy, CopyOut

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

DRIVERS = ("asyncpg", "psycopg")
SYNC_DRIVER = "psycopg"
# Any statement makes SQLAlchemy, and its driver, begin a transaction.
BEGIN = "SELECT 1"


class SqlalchemyExecutor(DelegatingExecutor):
    """Run statements on SQLAlchemy's driver connection, one at a time, in SQLAlchemy's transaction."""

    __slots__ = ("_dialect", "_driver_executor")

    def __init__(
        self,
        dialect: Callable[[], sqlalchemy.engine.Dialect],
        driver_executor: Callable[[], Awaitable[Executor]],
    ) -> None:
        self._dialect = dialect
        self._driver_executor = driver_executor

    async def copy(self, copy: Copy) -> int:
        return await (await self._entered(copy.name)).copy(copy)

    async def copy_out(self, copy: CopyOut) -> int:
        return await (await self._entered(copy.name)).copy_out(copy)

    @contextlib.asynccontextmanager
    async def _enter(self, operation: str, timeout_seconds: float | None) -> AsyncIterator[Executor]:
        yield await self._entered(operation)

    async def _entered(self, operation: str) -> Executor:
        try:
            return await self._driver_executor()
        except Exception as error:  # of the connection that SQLAlchemy makes now, or of its first statement
            driver = self._dialect().driver
            if driver not in DRIVERS:
                raise
            with import_module(f"millhand.db.driver.{driver}_error").translated(operation, None):
                if isinstance(error, sqlalchemy.exc.SQLAlchemyError):
                    raise_driver_error(error)
                raise


def executor_inside(tx: object, schema: str) -> Executor | None:
    """Return an executor on an asynchronous SQLAlchemy connection or session; None for anything else."""
    if isinstance(tx, SqlalchemyExecutor) or not is_async_in_use():
        return tx if isinstance(tx, SqlalchemyExecutor) else None
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session  # noqa: PLC0415 - needs greenlet

    if isinstance(tx, AsyncConnection):
        return SqlalchemyExecutor(lambda: tx.dialect, lambda: _executor_on(tx, schema))
    if isinstance(tx, AsyncSession | async_scoped_session):
        return SqlalchemyExecutor(lambda: tx.get_bind().dialect, lambda: _executor_in_session(tx, schema))
    return None


def sync_executor_inside(tx: object, schema: str) -> Executor | None:
    """Return an executor on a blocking SQLAlchemy connection or session; None for anything else."""
    if isinstance(tx, Connection):
        return SqlalchemyExecutor(lambda: tx.dialect, lambda: _sync_executor_on(tx, schema))
    if isinstance(tx, Session | scoped_session):
        return SqlalchemyExecutor(
            lambda: tx.get_bind().dialect, lambda: _sync_executor_on(tx.connection(), schema)
        )
    return tx if isinstance(tx, SqlalchemyExecutor) else None


def is_async_in_use() -> bool:
    """Return whether SQLAlchemy's asynchronous package is imported, so that its objects may exist."""
    return "sqlalchemy.ext.asyncio" in sys.modules


def raise_driver_error(error: sqlalchemy.exc.SQLAlchemyError) -> NoReturn:
    """Raise the driver's own error that SQLAlchemy wrapped."""
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        raise TimeoutError(str(error)) from error
    if isinstance(error, sqlalchemy.exc.DBAPIError) and error.orig is not None:
        # For asyncpg SQLAlchemy wraps errors twice.
        is_adapted = type(error.orig).__module__.startswith("sqlalchemy.")
        cause = error.orig.__cause__ if is_adapted else error.orig
        raise (cause or error.orig) from error
    raise error


def check_driver(dialect: sqlalchemy.engine.Dialect, *accepted: str) -> None:
    """Raise TypeError for a SQLAlchemy connection of a driver that is not accepted."""
    if dialect.driver not in accepted:
        raise TypeError(
            f"tx must be on a connection of {' or '.join(accepted)}, got SQLAlchemy on {dialect.name}+{dialect.driver}"
        )


async def driver_connection_of(connection: AsyncConnection) -> Any:
    """Return the connection of asyncpg or psycopg under SQLAlchemy's."""
    return (await connection.get_raw_connection()).driver_connection


async def _executor_in_session(session: AsyncSession | async_scoped_session[Any], schema: str) -> Executor:
    return await _executor_on(await session.connection(), schema)


async def _executor_on(connection: AsyncConnection, schema: str) -> Executor:
    check_driver(connection.dialect, *DRIVERS)
    inner = await driver_connection_of(connection)
    if not (connection.in_transaction() and _is_in_transaction(inner)):
        await connection.exec_driver_sql(BEGIN)
    return _driver_executor(f"{connection.dialect.driver}_executor", inner, schema)


async def _sync_executor_on(connection: Connection, schema: str) -> Executor:
    check_driver(connection.dialect, SYNC_DRIVER)
    inner: Any = connection.connection.driver_connection
    if not (connection.in_transaction() and inner.info.transaction_status != 0):
        connection.exec_driver_sql(BEGIN).close()
    return _driver_executor("psycopg_sync_executor", inner, schema)


def _driver_executor(module: str, connection: Any, schema: str) -> Executor:
    """Return an executor of a driver's module, which is imported here: its package may be missing."""
    executor: Executor = import_module(f"millhand.db.driver.{module}").ConnectionExecutor(connection, schema)
    return executor


def _is_in_transaction(connection: Any) -> bool:
    if hasattr(connection, "is_in_transaction"):  # asyncpg's
        return bool(connection.is_in_transaction())
    return bool(connection.info.transaction_status != 0)
