"""How a client starts: all or nothing, and with as few questions as can be before the first fetch."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.protocol import Executor
from millhand.errors import DriverError
from millhand.event import EventKind
from millhand.job import Job, JobState
from millhand.runtime.producer import Producer
from millhand.store.query import Query
from millhand.worker import Workers

T = TypeVar("T")

# All that is asked by a worker before its first fetch. What is added here, every start waits for.
BEFORE_THE_FIRST_FETCH = [
    "client_get_shape",
    "client_heartbeat",
    "migration_get_shape",
    "migration_get_versions",
    "queue_create_or_set_updated_at",
]


class NotingPool:
    """A pool that keeps the names of the statements in the order in which they were asked."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self.asked: list[str] = []

    async def run(self, query: Query[T]) -> T:
        self.asked.append(query.name)
        return await self._pool.run(query)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class NotingDriver(AsyncpgDriver):
    """A driver of which one can see what it was asked."""

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
    """What waits in one queue is as it was when another one turns out to be a queue that cannot be worked."""
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


async def test_start_fails_where_the_first_report_does(harness: ClientHarness) -> None:
    """Nobody works who is known to nobody: if he were killed, his jobs would wait for their age."""
    await harness.insert_raw("act", '{"what": "x"}')
    client = harness.client(_workers())
    await harness.execute("ALTER TABLE millhand_client ADD CONSTRAINT nobody CHECK (hostname = '')")
    try:
        with pytest.raises(DriverError, match="nobody"):
            await client.start()
    finally:
        await harness.execute("ALTER TABLE millhand_client DROP CONSTRAINT nobody")

    [row] = await harness.rows()
    assert (row.state, row.attempt, list(row.attempted_by)) == (JobState.AVAILABLE, 0, [])


async def test_start_that_is_given_up_after_its_first_fetch_gives_the_jobs_back(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start may be cancelled up to its last moment; what was fetched by then waits for others, as if never attempted."""
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


async def test_start_asks_nothing_before_the_first_fetch_that_could_wait(harness: ClientHarness) -> None:
    """Who leads, what is stuck and what others left behind is asked when the first jobs are on their way."""
    await harness.insert_raw("act", '{"what": "x"}')
    driver = NotingDriver(harness.url)
    client = harness.client(_workers(), database=driver)
    with client.subscribe(EventKind.JOB_COMPLETED) as events:
        async with client:
            await asyncio.wait_for(anext(events), GENEROUS)

    asked = driver.noting_pool.asked
    assert sorted(asked[: asked.index("job_get_available")]) == BEFORE_THE_FIRST_FETCH
