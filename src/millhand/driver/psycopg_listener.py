"""LISTEN by psycopg: the event loop watches the socket, so that notifications need no task of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg.pq import ConnStatus
from psycopg.sql import SQL, Identifier

from millhand.driver.psycopg_deadline import CutAfter
from millhand.driver.psycopg_error import CONNECT_SECONDS, WIRE_ERRORS, within
from millhand.driver.psycopg_wire import AsyncCursor
from millhand.errors import ConnectionLost
from millhand.store.query import TIMEOUT_SECONDS

AnyConnection = psycopg.AsyncConnection[Any]


class PsycopgListener:
    """One connection that does nothing but LISTEN."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[AnyConnection]],
        give_back: Callable[[AnyConnection], Awaitable[None]],
        schema: str,
    ) -> None:
        self._connect = connect
        self._give_back = give_back
        self._schema = schema
        self._connection: AnyConnection | None = None
        self._is_lost = False
        self._prefix = ""
        self._receivers: dict[str, Callable[[str], None]] = {}
        self._call_on_lost: Callable[[], None] | None = None
        self._watched: int | None = None

    def on_lost(self, ring: Callable[[], None]) -> None:
        """Have `ring` called once, on the event loop, when the connection was lost; call before `connect`."""
        self._call_on_lost = ring

    @property
    def is_lost(self) -> bool:
        """Whether the connection was lost after it was made."""
        return self._is_lost

    async def connect(self) -> None:
        """Connect, and learn the schema whose topics are meant if none was configured."""
        self._is_lost = False
        self._receivers = {}
        connection = await within("listener_connect", self._connect(), CONNECT_SECONDS)
        connection.add_notify_handler(self._receive)
        self._connection = connection
        schema = self._schema or await self._current_schema()
        self._prefix = f"{schema}." if schema else ""
        self._watch(connection)

    async def listen(self, topic: str, receive: Callable[[str], None]) -> None:
        """Have `receive` called with each payload of `<schema>.<topic>`, on the event loop."""
        name = self._prefix + topic
        self._receivers[name] = receive
        await self._say("listen", SQL("LISTEN {}").format(Identifier(name)), CONNECT_SECONDS)

    async def ping(self) -> None:
        """Raise if the connection does not answer within ten seconds."""
        await self._say("ping", SQL("SELECT 1"), TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Close the connection, whether it was ours or a pool's; idempotent, never raises."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._unwatch()
        # Closed before it is given back: what it listens to would go on arriving there. The pool makes another instead.
        with contextlib.suppress(*WIRE_ERRORS):
            await connection.close()
            await self._give_back(connection)

    async def _current_schema(self) -> str | None:
        connection = self._require()
        cursor = AsyncCursor(connection)
        with CutAfter(connection, CONNECT_SECONDS):
            await within("listener_schema", cursor.execute(b"SELECT current_schema()"), CONNECT_SECONDS)
        [[schema]] = await cursor.fetchall()
        return schema  # type: ignore[no-any-return]

    async def _say(self, operation: str, statement: Any, seconds: float) -> None:
        connection = self._require()
        self._unwatch()  # psycopg watches the socket itself meanwhile
        try:
            with CutAfter(connection, seconds):
                await within(operation, AsyncCursor(connection).execute(statement, prepare=False), seconds)
        except ConnectionLost:
            self._record_lost()
            raise
        finally:
            if self._connection is connection and not self._is_lost:
                self._watch(connection)

    def _watch(self, connection: AnyConnection) -> None:
        if (
            connection.closed
        ):  # psycopg closes one whose statement it could not take back when its time was over
            self._record_lost()
            return
        self._watched = connection.fileno()
        asyncio.get_running_loop().add_reader(self._watched, self._read)
        self._read()  # what came together with the last answer makes the socket readable no more

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
        """Take what arrived while psycopg waited for the answer to something else."""
        self._receive_text(notification.channel, notification.payload)

    def _receive_text(self, channel: str, payload: str) -> None:
        receive = self._receivers.get(channel)
        if receive is not None:
            receive(payload)

    def _require(self) -> AnyConnection:
        if self._connection is None or self._is_lost:
            raise ConnectionLost("listen", "a connection that is closed")
        return self._connection

    def _record_lost(self) -> None:
        self._unwatch()
        if self._is_lost:
            return
        self._is_lost = True
        if self._call_on_lost is not None:
            self._call_on_lost()
