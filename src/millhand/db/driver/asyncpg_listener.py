"""LISTEN by asyncpg."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from millhand.db.driver.asyncpg_error import WIRE_ERRORS, AnyConnection, translated, within
from millhand.db.driver.asyncpg_lease import RELEASE_SECONDS
from millhand.db.driver.listener import ConnectionListener
from millhand.db.driver.translation import CONNECT_SECONDS
from millhand.db.query import TIMEOUT_SECONDS


class AsyncpgListener(ConnectionListener[AnyConnection]):
    """One connection that only listens."""

    async def connect(self) -> None:
        """Connect; without a configured schema, ask the server for the current one."""
        self.is_lost = False
        connection = await within("listener_connect", self._connect(), CONNECT_SECONDS)
        connection.add_termination_listener(self._record_lost)
        self._connection = connection
        self._set_schema(
            self._schema
            or await within(
                "listener_schema", connection.fetchval("SELECT current_schema()"), CONNECT_SECONDS
            )
        )

    async def listen(self, topic: str, receive: Callable[[str], None]) -> None:

        def receive_notification(*notification: object) -> None:
            receive(str(notification[-1]))

        # A pool's connection that was just lost raises before it is awaited.
        with translated("listen", CONNECT_SECONDS):
            listening = self._require().add_listener(self._prefix + topic, receive_notification)
        await within("listen", listening, CONNECT_SECONDS)

    async def ping(self) -> None:
        with translated("ping", TIMEOUT_SECONDS):
            answer = self._require().fetchval("SELECT 1")
        await within("ping", answer, TIMEOUT_SECONDS)

    async def close(self) -> None:
        """Close the connection, even if it came from a pool; idempotent, never raises."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # Closed, not only released: it would go on receiving notifications. The pool makes another instead.
        with contextlib.suppress(*WIRE_ERRORS):
            connection.remove_termination_listener(self._record_lost)
            await connection.close(timeout=RELEASE_SECONDS)
        await self._release(connection)
