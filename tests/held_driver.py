"""A driver that lets a test come between a statement in the database and its answer in the client."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, TypeVar

from millhand.core.errors import ConnectionLost
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query

T = TypeVar("T")

FETCHES = ("job_get_available", "job_get_available_after", "job_get_available_counted")


class HeldPool:
    """
    A pool that keeps back the answers of some statements that brought something, until it is told to let them go.

    If `loses_answer`, the first of these answers is lost with its connection then.
    """

    def __init__(self, pool: Executor, names: Collection[str] = FETCHES) -> None:
        self._names = names
        self._pool = pool
        self.is_held = asyncio.Event()
        self.let_go = asyncio.Event()
        self.loses_answer = False

    async def run(self, query: Query[T]) -> T:
        answer = await self._pool.run(query)
        if query.name in self._names and getattr(answer, "jobs", answer):
            self.is_held.set()
            await self.let_go.wait()
            if self.loses_answer:
                self.loses_answer = False
                raise ConnectionLost(query.name, "the test loses this answer")
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class HeldDriver(AsyncpgDriver):
    """A driver whose fetches can be caught between the database and the client."""

    def __init__(self, url: str, schema: str = "") -> None:
        super().__init__(url, schema)
        self.held_pool = HeldPool(super().pool)

    @property
    def pool(self) -> Executor:
        return self.held_pool  # type: ignore[return-value]  # it is one, by __getattr__
