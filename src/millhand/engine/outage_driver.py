"""Driver wrappers: one reports every result to the outage detector, and one belongs to an event loop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from millhand.core.errors import MillhandError
from millhand.db.driver.protocol import Driver, Executor, Listener
from millhand.db.query import TIMEOUT_SECONDS, Copy, CopyOut, Query
from millhand.engine.outage import Outage

T = TypeVar("T")


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


class OwnLoopDriver:
    """Wraps a driver, whose pool may be used where `require_own_loop` does not raise; a caller's transaction anywhere."""

    def __init__(self, driver: Driver, require_own_loop: Callable[[], None]) -> None:
        self._driver = driver
        self._require_own_loop = require_own_loop
        self.address = driver.address
        self.pool_size = driver.pool_size
        self.schema = driver.schema

    @property
    def pool(self) -> Executor:
        self._require_own_loop()
        return self._driver.pool

    def executor(self, tx: object) -> Executor:
        return self._driver.executor(tx)

    def listener(self) -> Listener:
        return self._driver.listener()

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
