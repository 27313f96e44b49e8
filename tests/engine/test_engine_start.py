"""A client starts completely or not at all, and fetches before it makes other statements."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.core.errors import DriverError
from millhand.core.event import EventKind
from millhand.core.job import JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.producer import Producer

T = TypeVar("T")

# All statements of a worker before its first fetch. Every start waits for each of them.
BEFORE_THE_FIRST_FETCH = [
    "client_get_shape",
    "client_heartbeat",
    "limit_list",
    "migration_get_shape",
    "migration_get_versions",
    "queue_create_or_set_updated_at",
]


class NotingPool:
    """A pool that records the names of statements in order."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self.asked: list[str] = []

    async def run(self, query: Query[T]) -> T:
        self.asked.append(query.name)
        return await self._pool.run(query)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class NotingDriver(AsyncpgDriver):
    """A driver that records its statements."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.noting_pool = NotingPool(super().pool)

    @property
    def pool(self) -> Executor:
        return self.noting_pool  # type: ignore[return-value]  # it is one, by __getattr__


def _workers() -> Workers:
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        if job.args.what == "for ever":
            await asyncio.Event().wait()

    return workers


async def test_start_that_fails_has_touched_no_job(harness: ClientHarness) -> None:
    """Jobs of one queue stay untouched if another queue cannot be worked."""
    await harness.insert_raw("act", '{"what": "x"}')
    client = harness.client(_workers(), queues={"default": 10, **{f"queue_{n}": 1 for n in range(20)}})
    await harness.execute("ALTER TABLE river_queue ADD CONSTRAINT not_worked CHECK (name <> 'queue_19')")
    try:
        with pytest.raises(DriverError, match="not_worked"):
            await client.start()
    finally:
        await harness.execute("ALTER TABLE river_queue DROP CONSTRAINT not_worked")

    [row] = await harness.rows()
    assert (row.state, row.attempt, list(row.attempted_by)) == (JobState.AVAILABLE, 0, [])


async def test_start_fails_if_the_first_heartbeat_does(harness: ClientHarness) -> None:
    """A client without a row could not be declared dead, so its jobs would wait for the rescue by age."""
    await harness.insert_raw("act", '{"what": "x"}')
    client = harness.client(_workers())
    await harness.execute("ALTER TABLE millhand_client ADD CONSTRAINT no_client CHECK (hostname = '')")
    try:
        with pytest.raises(DriverError, match="no_client"):
            await client.start()
    finally:
        await harness.execute("ALTER TABLE millhand_client DROP CONSTRAINT no_client")

    [row] = await harness.rows()
    assert (row.state, row.attempt, list(row.attempted_by)) == (JobState.AVAILABLE, 0, [])


async def test_start_cancelled_after_its_first_fetch_returns_the_jobs(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs fetched by then become available again, with the attempt not counted."""
    await harness.insert_raw("act", '{"what": "for ever"}')
    driver = NotingDriver(harness.url)
    client = harness.client(_workers(), database=driver)
    start = asyncio.ensure_future(client.start())
    begin = Producer.begin

    def begin_and_give_up(producer: Producer) -> None:
        begin(producer)
        start.cancel()

    monkeypatch.setattr(Producer, "begin", begin_and_give_up)
    with pytest.raises(asyncio.CancelledError):
        await start

    assert "job_get_available" in driver.noting_pool.asked
    [row] = await harness.rows()
    assert (row.state, row.attempt, list(row.errors)) == (JobState.AVAILABLE, 0, [])


async def test_start_makes_no_needless_statement_before_the_first_fetch(harness: ClientHarness) -> None:
    """Elections, rescues and searches begin after the first fetch was sent."""
    await harness.insert_raw("act", '{"what": "x"}')
    driver = NotingDriver(harness.url)
    client = harness.client(_workers(), database=driver)
    with client.subscribe(EventKind.JOB_COMPLETED) as events:
        async with client:
            await asyncio.wait_for(anext(events), GENEROUS)

    asked = driver.noting_pool.asked
    assert sorted(asked[: asked.index("job_get_available")]) == BEFORE_THE_FIRST_FETCH
