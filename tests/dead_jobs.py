"""Discarded jobs and their dead letters in tests: a copier, rows, and processes that die."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from factory import insert_job, qualified
from lent_schema import GENEROUS_SECONDS
from millhand.core.job import JobRow, JobState
from millhand.db.driver.protocol import Executor
from millhand.dead_jobs.copier import DeadJobCopier
from millhand.dead_jobs.dead_job import DeadJob
from millhand.dead_jobs.store import DeadJobFilters, dead_job_list
from millhand.engine.registration import Registration
from millhand.testing import ManualClock

ERROR = '{"at": "2026-03-10T12:00:00Z", "attempt": 1, "error": "%s", "trace": ""}'
OF_JOBS = """
INSERT INTO /* schema */millhand_dead_job (
    id, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, attempted_by,
    errors, kind, metadata, queue, tags, unique_key, unique_states
)
SELECT
    id, attempt, max_attempts, attempted_at, created_at,
    coalesce(least(greatest(finalized_at, '0001-01-01Z'), '9999-12-31 23:59:59.999999Z'), now()),
    scheduled_at, priority, args, attempted_by, errors, kind, metadata, queue, tags, unique_key, unique_states
FROM /* schema */river_job
"""
BLOCKED = """
SELECT count(*) AS num FROM pg_stat_activity
WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""


def copier_of(
    executor: Any, *, retention: timedelta | None = timedelta(days=90), now: datetime | None = None
) -> DeadJobCopier:
    """Return a copier that a test runs pass by pass."""
    return DeadJobCopier(
        executor,
        clock=ManualClock(),
        registration=Registration(is_active=True),
        retention=retention,
        now=lambda: now,
    )


async def discard(executor: Executor, *, error: str = "no", **columns: Any) -> JobRow:
    """Insert a job that was discarded, by default a moment ago."""
    given = {"attempt": 25, "errors": [ERROR % error], "finalized_at": datetime.now(UTC), **columns}
    return await insert_job(executor, JobState.DISCARDED, **given)


async def put_dead_jobs(executor: Executor) -> None:
    """Let each job that is there have a dead letter, whatever its state and its values are."""
    await executor.fetch(qualified(OF_JOBS, executor))


async def dead_jobs(executor: Executor) -> list[DeadJob]:
    """Return all dead letters by id."""
    return sorted(
        await executor.run(dead_job_list(DeadJobFilters(), limit=10_000)), key=lambda one: one.job.id
    )


async def dead_ids(executor: Executor) -> list[int]:
    return [one.job.id for one in await dead_jobs(executor)]


async def delete_row(executor: Executor, *ids: int) -> None:
    """Delete the rows of jobs, as a leader does after their retention."""
    await executor.fetch(
        qualified("DELETE FROM /* schema */river_job WHERE id = ANY($1)", executor), [list(ids)]
    )


async def until_blocked(
    executor: Executor, task: asyncio.Task[Any], num: int = 1, *, by: Executor | None = None
) -> None:
    """Return when statements of this database wait for locks; with `by`, for those of this transaction."""
    of_holder, holders = "", []
    if by is not None:
        of_holder = " AND $1 = ANY(pg_blocking_pids(pid))"
        holders = [(await by.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"]]
    async with asyncio.timeout(GENEROUS_SECONDS):
        while (await executor.fetch(BLOCKED + of_holder, holders))[0]["num"] < num:
            assert not task.done(), "the statement did not wait for a lock"


class Dying:
    """
    A pool and its transactions, in which a process dies around its n-th statement.

    With `is_sent`, the statement was executed, and its answer is lost. Otherwise it was not sent.
    """

    def __init__(self, pool: Any, url: str, number: int, *, is_sent: bool = True) -> None:
        self._is_sent = is_sent
        self._left = number
        self._pool = pool
        self._url = url
        self.has_died = False

    async def run(self, query: Any) -> Any:
        return await self._run(self._pool, query)

    async def _run(self, executor: Any, query: Any) -> Any:
        self._left -= 1
        if self._left == 0 and not self._is_sent:
            self._die()
        result = await executor.run(query)
        if self._left == 0 and self._is_sent:
            self._die()
        return result

    def _die(self) -> None:
        """End the connections of open transactions, as a killed process would, and do nothing more."""
        self.has_died = True
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
            )
        raise Died

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[Any]:
        async with self._pool.begin() as executor:
            yield _DyingTransaction(self, executor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class _DyingTransaction:
    def __init__(self, dying: Dying, executor: Any) -> None:
        self._dying = dying
        self._executor = executor

    async def run(self, query: Any) -> Any:
        return await self._dying._run(self._executor, query)


class Died(Exception):
    """The process died."""
