"""LISTEN by psycopg: the event loop watches the socket, so notifications need no task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.pq import ConnStatus
from psycopg.sql import SQL, Identifier

from millhand.core.errors import ConnectionLost
from millhand.db.driver.listener import ConnectionListener
from millhand.db.driver.psycopg_cursor import AsyncCursor
from millhand.db.driver.psycopg_deadline import CutAfter
from millhand.db.driver.psycopg_error import WIRE_ERRORS, within
from millhand.db.driver.translation import CONNECT_SECONDS
from millhand.db.query import TIMEOUT_SECONDS

AnyConnection = psycopg.AsyncConnection[Any]


class PsycopgListener(ConnectionListener[AnyConnection]):
    """One connection that only listens."""

    _receivers: dict[str, Callable[[str], None]]
    _watched: int | None = None

    async def connect(self) -> None:
        """Connect; without a configured schema, ask the server for the current one."""
        self.is_lost = False
        self._receivers = {}
        connection = await within("listener_connect", self._connect(), CONNECT_SECONDS)
        connection.add_notify_handler(self._receive)
        self._connection = connection
        self._set_schema(self._schema or await self._current_schema())
        self._watch(connection)

    async def listen(self, topic: str, receive: Callable[[str], None]) -> None:
        name = self._prefix + topic
        self._receivers[name] = receive
        await self._execute("listen", SQL("LISTEN {}").format(Identifier(name)), CONNECT_SECONDS)

    async def ping(self) -> None:
        await self._execute("ping", SQL("SELECT 1"), TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Close the connection, even if it came from a pool; idempotent, never raises."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._unwatch()
        # Closed before it is released: it would go on receiving notifications. The pool makes another instead.
        with contextlib.suppress(*WIRE_ERRORS):
            await connection.close()
            await self._release(connection)

    async def _current_schema(self) -> str | None:
        connection = self._require()
        cursor = AsyncCursor(connection)
        with CutAfter(connection, CONNECT_SECONDS):
            await within("listener_schema", cursor.execute(b"SELECT current_schema()"), CONNECT_SECONDS)
        [[schema]] = await cursor.fetchall()
        return schema  # type: ignore[no-any-return]

    async def _execute(self, operation: str, statement: Any, seconds: float) -> None:
        connection = self._require()
        self._unwatch()  # psycopg itself reads the socket during the statement
        try:
            with CutAfter(connection, seconds):
                await within(operation, AsyncCursor(connection).execute(statement, prepare=False), seconds)
        except ConnectionLost:
            self._record_lost()
            raise
        finally:
            if self._connection is connection and not self.is_lost:
                self._watch(connection)

    def _watch(self, connection: AnyConnection) -> None:
        # psycopg closes a connection whose late statement it could not cancel.
        if connection.closed:
            self._record_lost()
            return
        self._watched = connection.fileno()
        asyncio.get_running_loop().add_reader(self._watched, self._read)
        self._read()  # the socket is not readable for what came with the last answer

    def _unwatch(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            asyncio.get_running_loop().remove_reader(watched)

    def _read(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            connection.pgconn.consume_input()
        except psycopg.Error:
            self._record_lost()
            return
        while (notification := connection.pgconn.notifies()) is not None:
            self._receive_text(notification.relname.decode(), notification.extra.decode())
        if connection.pgconn.status == ConnStatus.BAD:
            self._record_lost()

    def _receive(self, notification: psycopg.Notify) -> None:
        """Receive what arrived while psycopg waited for another answer."""
        self._receive_text(notification.channel, notification.payload)

    def _receive_text(self, channel: str, payload: str) -> None:
        receive = self._receivers.get(channel)
        if receive is not None:
            receive(payload)

    def _record_lost(self, _connection: object = None) -> None:
        self._unwatch()
        super()._record_lost()
