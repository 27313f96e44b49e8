"""SQLAlchemy 2 on psycopg, for code without an event loop; see `sqlalchemy`."""

from __future__ import annotations

import contextlib
from typing import Any

import sqlalchemy.exc
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, scoped_session

from millhand.driver.borrowed_pool import BorrowedPool
from millhand.driver.detect import sync_executor_of
from millhand.driver.protocol import Driver, Executor
from millhand.driver.sqlalchemy import BEGIN, ReachedExecutor, raise_beneath
from millhand.errors import ConfigError

DRIVER = "psycopg"


class SyncEnginePool(BorrowedPool):
    """The connections of an Engine, with the words of psycopg's pool. Concurrency: any number of threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lent: dict[Any, Connection] = {}

    def getconn(self, timeout: float | None = None) -> Any:
        """Lend a connection of psycopg's, in no transaction; the engine's pool has a timeout of its own."""
        try:
            connection = self._engine.connect()
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise_beneath(error)
        beneath = connection.connection.driver_connection
        self._lent[beneath] = connection
        return beneath

    def putconn(self, beneath: Any) -> None:
        """Take a connection back; one that was closed is forgotten."""
        connection = self._lent.pop(beneath)
        if beneath.closed:
            connection.invalidate()
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
            connection.close()


def executor_inside(tx: object, schema: str) -> Executor | None:
    """Return an executor on a connection or a session of SQLAlchemy's; None for anything else."""
    if isinstance(tx, Connection):
        return ReachedExecutor(lambda: _reached(tx, schema))
    if isinstance(tx, Session | scoped_session):
        return ReachedExecutor(lambda: _reached(tx.connection(), schema))
    return tx if isinstance(tx, ReachedExecutor) else None


def driver_on(database: object, schema: str) -> Driver | None:
    """
    Return a driver on the connections of an engine; None for anything else.

    Raises: ConfigError for an engine of another driver.
    """
    if not isinstance(database, Engine):
        return None
    if database.dialect.driver != DRIVER:
        raise ConfigError(
            f"engine must be of {DRIVER}, got {database.dialect.name}+{database.dialect.driver}; "
            "make it of a URL that begins with 'postgresql+psycopg://'"
        )
    from millhand.driver.psycopg_sync import PsycopgSyncDriver  # noqa: PLC0415 - psycopg, which the engine has imported

    return PsycopgSyncDriver(SyncEnginePool(database), schema)


async def _reached(connection: Connection, schema: str) -> Executor:
    """Return an executor on the connection beneath; never waits."""
    if connection.dialect.driver != DRIVER:
        raise TypeError(
            f"tx must be on a connection of {DRIVER}, got SQLAlchemy on "
            f"{connection.dialect.name}+{connection.dialect.driver}"
        )
    beneath: Any = connection.connection.driver_connection
    if not (connection.in_transaction() and beneath.info.transaction_status != 0):
        connection.exec_driver_sql(BEGIN).close()
    return sync_executor_of(beneath, schema)
