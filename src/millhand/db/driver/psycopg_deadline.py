"""Deadlines that hold even if the server does not answer: cancel the statement, then close the socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from types import TracebackType
from typing import Any, Self

import psycopg

CANCEL_SECONDS = 5.0
# How long a late statement may take to be cancelled, before its connection is cut.
RELEASE_SECONDS = 1.0


class Deadline:
    """
    End a statement that takes longer than `seconds`, from a second thread; None waits without limit.

    Raises: TimeoutError in place of the error of the ended statement.
    """

    def __init__(self, connection: psycopg.Connection[Any], seconds: float | None) -> None:
        self._connection = connection
        self._ended = threading.Event()
        self._is_late = False
        self._lock = threading.Lock()
        self._timer = None if seconds is None else threading.Timer(seconds, self._expire)

    def __enter__(self) -> None:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._timer is None:
            return
        self._ended.set()
        self._timer.cancel()
        with self._lock:  # a cancel request must not reach the next statement
            is_late = self._is_late
        if is_late and isinstance(error, psycopg.Error):
            raise TimeoutError from error

    def _expire(self) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            self._is_late = True
            with contextlib.suppress(psycopg.Error, OSError):
                self._connection.cancel_safe(timeout=CANCEL_SECONDS)
        if not self._ended.wait(RELEASE_SECONDS):
            _cut(self._connection)


class ServerDeadline:
    """
    End what takes the server longer than `seconds`, and cut a connection that does not answer even then.

    Time between `pause` and `resume` does not count; `resume` restarts the deadline.
    Raises: TimeoutError.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self.resume()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_timer()
        await self._timeout.__aexit__(kind, error, trace)

    def pause(self) -> None:
        """Stop the deadline."""
        self._stop_timer()
        self._timeout.reschedule(None)

    def resume(self) -> None:
        """Restart the deadline."""
        loop = asyncio.get_running_loop()
        late_at = loop.time() + self._seconds
        self._timeout.reschedule(late_at)
        self._timer = loop.call_at(late_at + RELEASE_SECONDS, _cut, self._connection)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class CutAfter:
    """Cut a connection that still does not answer after `seconds` and the time to cancel its statement."""

    __slots__ = ("_connection", "_seconds", "_timer")

    _timer: asyncio.TimerHandle | None

    def __init__(self, connection: psycopg.AsyncConnection[Any], seconds: float | None) -> None:
        self._connection = connection
        self._seconds = seconds

    def __enter__(self) -> None:
        self._timer = None
        if self._seconds is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._seconds + RELEASE_SECONDS, _cut, self._connection)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _cut(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    # Shut down a duplicate of the socket: a reader of the original sees its end. Closing the original here would free a
    # file descriptor that the reader still uses.
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)
