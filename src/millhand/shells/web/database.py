"""The database of the web page: statements with a short deadline, and what its schema has."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from millhand.core.clock import Clock
from millhand.core.errors import MillhandError, OperationTimeout
from millhand.db.driver.protocol import Driver, Executor
from millhand.db.query import Query
from millhand.engine.fleet import Runner

T = TypeVar("T")

# A slower page does not help its reader, and its statement would slow the workers.
STATEMENT_SECONDS = 2.0


class StatementTimes:
    """
    How long the database worked on statements: what each took longer than the fastest one, which took a round trip.

    Units: seconds.
    """

    def __init__(self) -> None:
        self._fastest = math.inf
        self.busy_seconds = 0.0

    def record(self, took_seconds: float) -> None:
        self._fastest = min(self._fastest, took_seconds)
        self.busy_seconds += took_seconds - self._fastest


class WebDatabase:
    """
    One database as the page uses it.

    `name` is that of one of several. `completed_retention` is how long the settings keep completed jobs. It opens with the
    first request, because a mounted application gets no start event.
    Concurrency: any number of requests of one event loop at once.
    """

    def __init__(
        self,
        driver: Driver,
        clock: Clock,
        *,
        name: str = "",
        is_owner: bool = True,
        completed_retention: timedelta | None = None,
    ) -> None:
        self.name = name
        self.completed_retention = completed_retention
        self._recent: dict[object, tuple[datetime | None, Sequence[Any]]] = {}
        self._there: set[object] = set()
        self.driver = driver
        self._is_owner = is_owner
        self._opening = asyncio.Lock()
        self._is_open = False
        self._failure: MillhandError | None = None
        self._num_failures = 0
        self.times = StatementTimes()
        self.clock = clock

    @property
    def log_fields(self) -> dict[str, str]:
        """Its name, for log messages of a page of several databases."""
        return {"database": self.name} if self.name else {}

    async def open(self) -> None:
        """
        Connect, once. Raises: as `Driver.open`; the next request tries again.

        Requests that wait for one attempt fail with it: one after the other, each would wait for an attempt of its own.
        """
        num_failures = self._num_failures
        if self._is_open:
            return
        async with self._opening:
            if self._is_open:
                return
            if self._failure is not None and self._num_failures > num_failures:
                raise self._failure
            try:
                await self.driver.open()
            except MillhandError as error:
                self._failure, self._num_failures = error, self._num_failures + 1
                raise
            self._is_open = True

    async def close(self) -> None:
        """Close the driver, unless it is that of a client."""
        self._is_open = False
        if self._is_owner:
            await self.driver.close()

    async def run(self, query: Query[T]) -> T:
        """Run a statement of a page. Raises: as `Executor.run`."""
        began = time.monotonic()
        try:
            return await self.driver.pool.run(query.within(min(query.timeout_seconds, STATEMENT_SECONDS)))
        finally:
            self.times.record(time.monotonic() - began)

    async def recent(self, load: Callable[[Runner], Awaitable[Sequence[T]]], every: timedelta) -> Sequence[T]:
        """
        Return what `load` found within the time `every`.

        It is for what costs more than a page may wait for each time, and may take too long. Then there is nothing: old
        rows would mislead.
        """
        now, (at, rows) = self.clock.now(), self._recent.get(load, (None, ()))
        age = every * 2 if at is None else abs(now - at)
        if age >= every:
            self._recent[load] = now, rows if age < every * 2 else ()  # other requests use what is there
            try:
                self._recent[load] = now, await load(self)
            except OperationTimeout:
                self._recent[load] = now, ()
        return self._recent[load][1]

    async def has(self, shape: Callable[[], Query[bool]], tx: Executor | None = None) -> bool:
        """
        Return whether the schema has what `shape` asks for, and this role may read it. A yes is remembered.

        Within a transaction, pass it: it has a connection.
        """
        if shape not in self._there and await (self if tx is None else tx).run(shape()):
            self._there.add(shape)
        return shape in self._there
