"""Values, conditions and queries that the conformance tests and the drivers' own tests share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from millhand.core.insert_opts import InsertParams
from millhand.core.job import JobId, JobRow, JobState
from millhand.db.driver.protocol import Driver, Executor
from millhand.engine.store.job import job_count_by_state
from millhand.engine.store.job_row import GO_ZERO_TIME

GENEROUS_SECONDS = 20.0
KILL_ME = "SELECT pg_terminate_backend(pg_backend_pid())"

Connected = Callable[[], AbstractAsyncContextManager[Any]]


def params(**given: Any) -> InsertParams:
    plain = {
        "kind": "act",
        "encoded_args": '{"n":1}',
        "max_attempts": 25,
        "encoded_metadata": '{"m":1}',
        "priority": 1,
        "queue": "default",
        "state": JobState.AVAILABLE,
    }
    return InsertParams(**{**plain, **given})


async def batches(*batches: list[InsertParams]) -> AsyncIterator[list[InsertParams]]:
    for batch in batches:
        yield batch


def plain(job: JobRow) -> JobRow:
    """Return a row without its id and instants."""
    return msgspec.structs.replace(job, id=JobId(0), created_at=GO_ZERO_TIME, scheduled_at=GO_ZERO_TIME)


async def num_jobs(executor: Executor) -> int:
    return sum((await executor.run(job_count_by_state())).values())


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition is true."""
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not await condition():
            pass


def table(driver: Driver) -> str:
    return f'"{driver.schema}".river_job'


async def kinds(driver: Driver) -> Sequence[str]:
    return [row["kind"] for row in await driver.pool.fetch(f"SELECT kind FROM {table(driver)} ORDER BY id")]


async def is_running(executor: Executor, sql: str) -> bool:
    asked = (
        "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'PgSleep' AND query = $1"
    )
    return bool(await executor.fetch(asked, [sql]))


async def is_over(executor: Executor, sql: str) -> bool:
    return not await is_running(executor, sql)


async def pids_of(driver: Driver, listener: Any) -> list[int]:
    """Return the process that serves `listener`, found by its last statement."""
    await listener.listen("a_topic_of_its_own", print)
    asked = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %' || $1 || '.a_topic_of_its_own%'"
    return [row["pid"] for row in await driver.pool.fetch(asked, [driver.schema])]
