"""What the listeners of all libraries have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from millhand.core.errors import ConnectionLost

Connection = TypeVar("Connection")


class ConnectionListener(Generic[Connection]):
    """One connection that only listens; subclasses connect, listen and close it."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        release: Callable[[Connection], Awaitable[None]],
        schema: str,
    ) -> None:
        self._call_on_lost: Callable[[], None] | None = None
        self._connect = connect
        self._connection: Connection | None = None
        self.is_lost = False
        self._prefix = ""
        self._release = release
        self._schema = schema

    def on_lost(self, wake: Callable[[], None]) -> None:
        self._call_on_lost = wake

    def _set_schema(self, schema: str | None) -> None:
        self._prefix = f"{schema}." if schema else ""

    def _require(self) -> Connection:
        if self._connection is None or self.is_lost:
            raise ConnectionLost("listen", "a connection that is closed")
        return self._connection

    def _record_lost(self, _connection: object = None) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        if self._call_on_lost is not None:
            self._call_on_lost()
