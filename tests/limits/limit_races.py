"""Statements of limits that wait for each other's locks, in an order that the test decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

import millhand.db.sql
from limited_queue import LimitedQueue
from millhand.core.job import JobRow
from millhand.db.driver.protocol import Executor

T = TypeVar("T")

GENEROUS_SECONDS = 20.0
LIMIT = "SELECT FROM millhand_limit FOR UPDATE"
BLOCKED = """
SELECT count(*) AS num FROM pg_stat_activity
WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""


def partition_lock(key: str) -> str:
    return f"SELECT FROM millhand_limit_partition WHERE partition_key = '[\"{key}\"]' FOR UPDATE"


def limited_lock(id: int) -> str:
    return f"SELECT FROM millhand_limited_job WHERE job_id = {id} FOR UPDATE"


class Race:
    """Starts statements of `queue`, each of which waits for a lock before the next begins."""

    def __init__(self, queue: LimitedQueue) -> None:
        self.pool = queue.executor
        self.queue = queue
        self._num_blocked = 0

    @contextlib.asynccontextmanager
    async def held(self, *locks: str) -> AsyncIterator[Executor]:
        """Hold locks in a transaction; what was started waits until the end of the block."""
        async with self.pool.begin() as tx:
            for lock in locks:
                await tx.fetch(lock)
            yield tx
        self._num_blocked = 0

    async def blocked(self, statement: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a statement, and return when it waits for a lock: its snapshot is taken."""
        self._num_blocked += 1
        task = asyncio.ensure_future(statement)
        async with asyncio.timeout(GENEROUS_SECONDS):
            while (await self.pool.fetch(BLOCKED))[0]["num"] < self._num_blocked:
                assert not task.done(), "the statement did not wait for a lock"
        return task

    async def started_beside(self, limit: int = 100) -> list[JobRow]:
        """Return what admissions start while others hold locks: each says that there is more, so there are several."""
        return [job for _ in range(4) for job in (await self.queue.admit(limit)).jobs]

    async def started_later(self) -> list[str]:
        """Return the tenants of all jobs that start now, until no admission finds more."""
        found: list[str] = []
        for _ in range(50):
            await self.queue.collect()
            admission = await self.queue.admit()
            found += [job.args["tenant"] for job in admission.jobs]
            if not (admission.jobs or admission.has_more or admission.is_contended):
                return found
        raise AssertionError("admissions say that there is more, without end")


async def within(statement: Coroutine[Any, Any, T]) -> T:
    """Run what must not wait for anybody."""
    async with asyncio.timeout(GENEROUS_SECONDS / 4):
        return await statement


@contextlib.contextmanager
def mutated(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, *, times: int | None = None
) -> Iterator[None]:
    """Replace a part of all statements."""
    texts = millhand.db.sql.statements()
    changed = {name: text.replace(old, new) for name, text in texts.items()}
    num = sum(text.count(old) for text in texts.values())
    assert num == times if times is not None else num > 0, f"found {num} times: {old}"
    with monkeypatch.context() as patch:
        patch.setattr(millhand.db.sql, "statements", lambda: changed)
        millhand.db.sql.compile_statement.cache_clear()
        yield
    millhand.db.sql.compile_statement.cache_clear()
