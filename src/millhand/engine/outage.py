"""
Detects database outages. The log has a line when the database is unreachable, for each other reason, and when it is back.

    a statement finds no database ──▶ "database unreachable" ──▶ it answers, no failure for a while ──▶ "database back"

Rule 1: an outage is a failed or broken connection, a database that takes no writes, or a statement without an answer until
        its timeout. For a timeout, no other statement may have been answered in the latter half of its wait: in the former
        half the connection may still have been there. A statement that waits for a lock is no outage. Nor is a timeout
        of which the event loop was blocked for half the time or more: the answer may have come unread.
Rule 2: errors covered by the message about the outage, or about the blocked loop, carry `is_away`; their callers log them
        at DEBUG.
Rule 3: the database is back when it answers a statement that was sent after the last failure, and no other one fails for a
        while. A client that listens must have its listener connected again. The while grows when outages repeat.
Rule 4: an answer during the outage ends the pauses of all services that wait to try again, but at most once a second.

`OutageDriver` records the answers of a driver.

Concurrency: belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from millhand.core.errors import ConnectionLost, MillhandError, OperationTimeout
from millhand.core.log.context_fields import database_context
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Driver, Executor, Listener
from millhand.db.query import TIMEOUT_SECONDS, Copy, CopyOut, Query

logger = logger_of(__name__)

T = TypeVar("T")

CALM_SECONDS = 1.0
CALM_SECONDS_MAX = 30.0
# An outage that begins this soon after another one must be over for twice as long before it is logged as over.
AGAIN_SECONDS = 60.0
WAKE_SECONDS = 1.0
# A server that stops or starts answers with these classes of SQLSTATE: the same reason as no answer.
RESTART_CLASSES = ("08", "57")


def is_away(error: BaseException) -> bool:
    """Return whether an error is covered by the message about an outage."""
    return isinstance(error, ConnectionLost | OperationTimeout) and error.is_away


def level_of(error: BaseException) -> int:
    """Return the log level for the caller of a statement that failed."""
    return logging.DEBUG if is_away(error) else logging.WARNING


def _reason_of(error: MillhandError) -> str:
    """Return by what reasons of an outage differ: the SQLSTATE of a server that refuses, else an empty text."""
    sqlstate = (isinstance(error, ConnectionLost) and error.sqlstate) or ""
    return "" if sqlstate.startswith(RESTART_CLASSES) else sqlstate


def _fields_of(error: MillhandError) -> dict[str, str]:
    return {"error_type": type(error).__name__, "error": str(error)}


class Outage:
    """
    The outage state of one client's database.

    It detects outages between `open` and `close`, while the client is started.
    Units: times are monotonic seconds.
    """

    def __init__(self) -> None:
        self._is_open = False
        self.num_outages = 0
        self.num_statements = 0  # that run or wait for a connection
        self._reset()

    def _reset(self) -> None:
        self._answered_at = float("-inf")
        self._back_at: float | None = None  # the first answer since the last failure
        self._began_at: float | None = None
        self._calm: asyncio.TimerHandle | None = None
        self._calm_at = float("-inf")  # the first answer with the listener connected
        self._calm_seconds = CALM_SECONDS
        self._count_kept: Callable[[], int] = int
        self._ended_at = float("-inf")
        self._failed_at = 0.0
        self.is_listener_lost = False
        self._late_seconds: Callable[[float], float] = lambda _since: 0.0
        self._num_kept = 0
        self._reasons: set[str] = set()  # of this outage, that were logged
        self._wake: Callable[[], None] = lambda: None
        self._woken_at = float("-inf")
        self.now = time.monotonic

    def open(
        self,
        count_kept: Callable[[], int],
        *,
        late_seconds: Callable[[float], float] = lambda _since: 0.0,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Detect outages from now on.

        `count_kept` returns how many outcomes wait to be written, for the log; `late_seconds` for how much of the time
        since an instant the event loop was blocked. `wake` ends the pauses of what failed in the outage.
        """
        self._reset()
        self._count_kept = count_kept
        self._late_seconds = late_seconds
        self._wake = wake
        self._is_open = True
        self.now = asyncio.get_running_loop().time

    def close(self) -> None:
        """Stop detecting. An outage that is over by now is logged as over."""
        if self._calm is not None:
            self._end()
        self._is_open = False

    @property
    def is_on(self) -> bool:
        """Whether an outage lasts or ended only moments ago."""
        return self._began_at is not None

    @property
    def is_reachable(self) -> bool:
        """Whether the database answers again, although the outage may not be logged as over yet."""
        return self._began_at is None or self._calm is not None

    def record_answered(self, sent: float) -> None:
        """Record that the database answered a statement; an error of its own is an answer."""
        self._answered_at = self.now()
        if self._began_at is None:
            return
        self._record_kept()  # before the completer's first success reduces the number
        if sent <= self._failed_at:
            return
        if self._back_at is None:
            self._back_at = self._answered_at
        if self._calm is None and not self.is_listener_lost:
            self._calm_down()
        if self._answered_at - self._woken_at >= WAKE_SECONDS:
            self._woken_at = self._answered_at
            self._wake()

    def record_failed(self, error: MillhandError, sent: float) -> None:
        """Record the failure of a statement; set `is_away` on the error if the outage message covers it."""
        if not isinstance(error, ConnectionLost | OperationTimeout):
            self.record_answered(sent)
            return
        # Sent before an answer came again, it failed because of the outage that ended then.
        is_late = sent < self._calm_at
        is_unread = self._is_unread(error, sent)
        is_silent = self._answered_at < (sent + self.now()) / 2 and not is_unread
        is_gone = isinstance(error, ConnectionLost) or is_silent
        error.is_away = is_late or (self._is_open and (is_gone or is_unread or self.is_on))
        if self._is_open and is_gone and not is_late:
            self._record_gone(error)

    def _is_unread(self, error: MillhandError, sent: float) -> bool:
        """Return whether a statement timed out because the event loop was blocked."""
        return isinstance(error, OperationTimeout) and self._late_seconds(sent) >= (self.now() - sent) / 2

    def record_listener_lost(self, error: MillhandError | None = None, sent: float | None = None) -> None:
        if not self._is_open:
            return
        self.is_listener_lost = True
        if error is None or sent is None or not self._is_unread(error, sent):
            self._record_gone(error or ConnectionLost("listen", "the end of its connection"))

    def record_listener_connected(self) -> None:
        self.is_listener_lost = False
        self._answered_at = self.now()
        if self._began_at is None:
            return
        if self._back_at is None:
            self._back_at = self._answered_at
        if self._calm is None:
            self._calm_down()

    def _record_gone(self, error: MillhandError) -> None:
        now = self._failed_at = self.now()
        self._back_at = None
        if self._calm is not None:
            self._calm.cancel()
            self._calm = None
        self._record_kept()
        if self._began_at is not None:
            if self._is_new_reason(error):
                logger.warning("database still unreachable", extra=_fields_of(error))
            return
        is_again = now - self._ended_at < AGAIN_SECONDS
        self._calm_seconds = min(self._calm_seconds * 2, CALM_SECONDS_MAX) if is_again else CALM_SECONDS
        self._began_at = now
        self.num_outages += 1
        self._reasons = {_reason_of(error)}
        logger.warning("database unreachable", extra=_fields_of(error))

    def _is_new_reason(self, error: MillhandError) -> bool:
        num_reasons = len(self._reasons)
        self._reasons.add(_reason_of(error))
        return len(self._reasons) > num_reasons

    def _record_kept(self) -> None:
        self._num_kept = max(self._num_kept, self._count_kept())

    def _calm_down(self) -> None:
        self._calm_at = self.now()
        self._record_kept()
        self._calm = asyncio.get_running_loop().call_later(
            self._calm_seconds, self._end, context=database_context()
        )

    def _end(self) -> None:
        if self._calm is not None:
            self._calm.cancel()
        back_at = self._calm_at if self._back_at is None else self._back_at
        fields = {
            "seconds": round(back_at - (self._began_at or back_at), 3),
            "recovery_seconds": round(self._calm_at - back_at, 3),
            "num_kept": self._num_kept,
        }
        logger.info("database back", extra=fields)
        self._began_at, self._calm, self._num_kept = None, None, 0
        self._ended_at = self.now()


class OutageDriver:
    """Wraps a driver; `outage` records the results of its pool and listeners, but not of a caller's transaction."""

    def __init__(self, driver: Driver, outage: Outage) -> None:
        self._driver = driver
        self._outage = outage
        self._pool = OutagePool(driver.pool, outage)
        self.address = driver.address
        self.pool_size = driver.pool_size
        self.schema = driver.schema

    @property
    def pool(self) -> Executor:
        return self._pool

    def executor(self, tx: object) -> Executor:
        return self._driver.executor(tx)

    def listener(self) -> Listener:
        """Return a listener whose losses are recorded."""
        return OutageListener(self._driver.listener(), self._outage)

    async def open(self) -> None:
        await self._driver.open()

    async def close(self) -> None:
        await self._driver.close()


class OutagePool:
    """Wraps a pool and records its answers and failures."""

    __slots__ = ("_outage", "_pool")

    def __init__(self, pool: Executor, outage: Outage) -> None:
        self._outage = outage
        self._pool = pool

    async def run(self, query: Query[T]) -> T:
        # Not through `_recorded`: every statement comes this way.
        sent = self._outage.now()
        self._outage.num_statements += 1
        try:
            answer = await self._pool.run(query)
        except MillhandError as error:
            self._outage.record_failed(error, sent)
            raise
        finally:
            self._outage.num_statements -= 1
        self._outage.record_answered(sent)
        return answer

    async def copy(self, copy: Copy) -> int:
        return await self._recorded(self._pool.copy(copy))

    async def copy_out(self, copy: CopyOut) -> int:
        return await self._recorded(self._pool.copy_out(copy))

    async def fetch(
        self, sql: str, params: Sequence[Any] = (), *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> list[dict[str, Any]]:
        return await self._recorded(self._pool.fetch(sql, params, timeout_seconds=timeout_seconds))

    async def execute_script(self, sql: str, *, timeout_seconds: float | None = None) -> None:
        await self._recorded(self._pool.execute_script(sql, timeout_seconds=timeout_seconds))

    async def _recorded(self, answer: Awaitable[T]) -> T:
        sent = self._outage.now()
        self._outage.num_statements += 1
        try:
            given = await answer
        except MillhandError as error:
            self._outage.record_failed(error, sent)
            raise
        finally:
            self._outage.num_statements -= 1
        self._outage.record_answered(sent)
        return given

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Executor]:
        """Begin a transaction; its end counts as the answer."""
        sent = self._outage.now()
        try:
            async with self._pool.begin() as executor:
                yield executor
        except MillhandError as error:
            self._outage.record_failed(error, sent)
            raise
        self._outage.record_answered(sent)


class OutageListener:
    """
    Wraps a listener, and records its losses and when it listens again.

    A server that only reads accepts its connection and refuses to listen.
    """

    def __init__(self, listener: Listener, outage: Outage) -> None:
        self._listener = listener
        self._outage = outage

    @property
    def is_lost(self) -> bool:
        return self._listener.is_lost

    async def connect(self) -> None:
        await self._recorded(self._listener.connect())

    async def listen(self, topic: str, receive: Callable[[str], None]) -> None:
        await self._recorded(self._listener.listen(topic, receive))
        self._outage.record_listener_connected()

    async def ping(self) -> None:
        await self._recorded(self._listener.ping())

    def on_lost(self, wake: Callable[[], None]) -> None:
        """Call `wake` once when the connection is lost."""

        def record_and_wake() -> None:
            self._outage.record_listener_lost()
            wake()

        self._listener.on_lost(record_and_wake)

    async def close(self) -> None:
        await self._listener.close()

    async def _recorded(self, operation: Awaitable[None]) -> None:
        sent = self._outage.now()
        try:
            await operation
        except MillhandError as error:
            self._outage.record_listener_lost(error, sent)
            raise
