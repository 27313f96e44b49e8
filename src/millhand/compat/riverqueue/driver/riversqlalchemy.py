"""
The drivers of `riverqueue`, on an engine or a connection of SQLAlchemy.

On an engine, each call is its own transaction. On a connection, it is part of the open transaction, which you commit.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from millhand import client, sync_client
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.db.driver.tx_executor import class_name


class Driver:
    """
    Driver for synchronous code, on psycopg.

    `config` sets the schema and hooks. Raises: ConfigError for another database.
    """

    def __init__(self, conn: Connection | Engine, config: Config | None = None) -> None:
        if not isinstance(conn, Connection | Engine):
            raise ConfigError(f"conn must be a SQLAlchemy Engine or Connection, got {class_name(conn)}")
        self.conn = conn
        self.client = sync_client.SyncClient(conn.engine, config)

    def executor(self) -> AbstractContextManager[Connection]:
        """Return a connection for one call."""
        return nullcontext(self.conn) if isinstance(self.conn, Connection) else self.conn.begin()


class AsyncDriver:
    """Driver for asynchronous code, on asyncpg or psycopg; otherwise as `Driver`."""

    def __init__(self, conn: AsyncConnection | AsyncEngine, config: Config | None = None) -> None:
        if not isinstance(conn, AsyncConnection | AsyncEngine):
            raise ConfigError(
                f"conn must be a SQLAlchemy AsyncEngine or AsyncConnection, got {class_name(conn)}"
            )
        self.conn = conn
        engine = conn.engine if isinstance(conn, AsyncConnection) else conn
        self.client = client.Client(engine, config)

    def executor(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Return a connection for one call."""
        return nullcontext(self.conn) if isinstance(self.conn, AsyncConnection) else self.conn.begin()
