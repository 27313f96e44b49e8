"""Transactions of flows that wait for each other's locks, in an order that the test decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

import millhand.db.sql
from factory import qualified
from flow_world import FlowWorld
from millhand.db.driver.protocol import Executor

T = TypeVar("T")

GENEROUS_SECONDS = 20.0
FLOWS = "SELECT FROM /* schema */millhand_flow FOR UPDATE"
BLOCKED = """
SELECT count(*) AS num FROM pg_stat_activity
WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""


def job_lock(id: int) -> str:
    return f"SELECT FROM /* schema */river_job WHERE id = {id} FOR UPDATE"


class Race:
    """Starts transactions of `world`, each of which waits for a lock before the next begins."""

    def __init__(self, world: FlowWorld) -> None:
        self.pool = world.pool
        self.world = world
        self._num_blocked = 0
        self._tasks: list[asyncio.Task[Any]] = []

    async def ended(self) -> None:
        """Wait for all that was started: after a failed test it would collide with what empties the tables."""
        async with asyncio.timeout(GENEROUS_SECONDS):
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def held(self, lock: str = FLOWS) -> AsyncIterator[Executor]:
        """Hold locks in a transaction; what was started waits until the end of the block."""
        async with self.pool.begin() as tx:
            await tx.fetch(qualified(lock, tx))
            yield tx
        self._num_blocked = 0

    async def blocked(self, call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a call, and return when it waits for a lock."""
        self._num_blocked += 1
        task = asyncio.ensure_future(call)
        self._tasks.append(task)
        async with asyncio.timeout(GENEROUS_SECONDS):
            while (await self.pool.fetch(BLOCKED))[0]["num"] < self._num_blocked:
                assert not task.done(), "the call did not wait for a lock"
        return task


async def within(call: Coroutine[Any, Any, T]) -> T:
    """Run what must not wait for a lock."""
    async with asyncio.timeout(GENEROUS_SECONDS):
        return await call


@contextlib.contextmanager
def mutated(monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str) -> Iterator[None]:
    """Replace a part of one statement."""
    texts = millhand.db.sql.statements()
    assert old in texts[name], f"not in {name}: {old}"
    changed = {**texts, name: texts[name].replace(old, new)}
    with monkeypatch.context() as patch:
        patch.setattr(millhand.db.sql, "statements", lambda: changed)
        millhand.db.sql.compile_statement.cache_clear()
        yield
    millhand.db.sql.compile_statement.cache_clear()
