"""Several attempts of one job in one client: fetched again before the last one ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from held_driver import FETCHES, HeldDriver, HeldPool
from millhand.core.errors import JobSnooze
from millhand.core.event import EventKind
from millhand.core.job import ClientId, JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.attempt import Attempt, CancelReason
from millhand.engine.producer import Producer
from millhand.engine.queue_poller import QueuePoller
from millhand.engine.subscription import Subscriptions
from millhand.testing import Probe

T = TypeVar("T")

MAKE_AVAILABLE = "UPDATE river_job SET state = 'available', scheduled_at = now()"


class Attempts:
    """The attempts that a producer executes; each lasts until the test ends it."""

    def __init__(self) -> None:
        self.ends: list[asyncio.Event] = []
        self.made: list[Attempt] = []
        self._has_begun = asyncio.Event()

    async def execute(self, attempt: Attempt) -> None:
        end = asyncio.Event()
        self.ends.append(end)
        self.made.append(attempt)
        self._has_begun.set()
        await end.wait()

    async def wait_begun(self, num_attempts: int) -> None:
        """Return when so many attempts have begun, some turns of the event loop after their fetch."""
        async with asyncio.timeout(GENEROUS):
            while len(self.made) < num_attempts:
                self._has_begun.clear()
                await self._has_begun.wait()


def _producer(harness: ClientHarness, attempts: Attempts) -> Producer:
    return Producer(
        "default",
        harness.driver.pool,
        client_id=ClientId("me"),
        cooldown_seconds=0.0,
        execute=attempts.execute,
        kinds=None,
        max_workers=10,
        poll_seconds=60.0,
        subscriptions=Subscriptions(),
    )


async def _fetched_twice(harness: ClientHarness, producer: Producer, attempts: Attempts) -> None:
    """Return when the only job was fetched, made available in the database, and fetched again."""
    probe = Probe(producer)
    await harness.insert_raw("act", "{}")
    await producer.start()
    producer.begin()
    assert await probe.wait("fetched") == 1
    await harness.execute(MAKE_AVAILABLE)
    producer.request_fetch()
    assert await probe.wait("fetched") == 1
    await attempts.wait_begun(2)


class WatchedPool:
    """A pool that records, as each fetch is sent, how many attempts of the producer have a task."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self.nums: list[int] = []
        self.producer: Producer | None = None

    async def run(self, query: Query[T]) -> T:
        if query.name in FETCHES and self.producer is not None:
            self.nums.append(sum(attempt.task is not None for attempt in self.producer.running))
        return await self._pool.run(query)


async def test_next_fetch_is_sent_before_the_tasks_of_the_last_one_are_made(harness: ClientHarness) -> None:
    """While more jobs wait, the database works on the next fetch as the attempts begin."""
    attempts = Attempts()
    producer = _producer(harness, attempts)
    watched = producer._pool = WatchedPool(harness.driver.pool)  # type: ignore[assignment]
    watched.producer = producer
    producer._size.limit = 2
    for _ in range(4):
        await harness.insert_raw("act", "{}")

    await producer.start()
    producer.begin()
    await attempts.wait_begun(4)
    await _end(producer, attempts)

    assert watched.nums[:2] == [0, 0]


async def test_task_factory_that_raises_is_a_crash_of_the_producer(harness: ClientHarness) -> None:
    """An application's task factory that fails for the task of an attempt stops the worker, with the error."""
    crashes: asyncio.Queue[BaseException | None] = asyncio.Queue()
    producer = _producer(harness, Attempts())
    producer.on_crash = lambda _, error: crashes.put_nowait(error)
    loop = asyncio.get_running_loop()
    await harness.insert_raw("act", "{}")
    await producer.start()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **keywords: Any) -> asyncio.Task[Any]:
        if coroutine.__qualname__ == "Producer._work":
            coroutine.close()
            raise RuntimeError("no task")
        return asyncio.Task(coroutine, loop=loop, **keywords)

    loop.set_task_factory(make)
    try:
        producer.begin()
        error = await asyncio.wait_for(crashes.get(), GENEROUS)
    finally:
        loop.set_task_factory(None)

    assert repr(error) == "RuntimeError('no task')"


@pytest.mark.slow
async def test_cancel_before_the_answer_of_the_fetch_reaches_the_job(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """runtime: claim_time_cancellation; it arrives before the fetch's answer, and the worker is never called."""
    called = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        called.append(job.id)

    driver = HeldDriver(harness.url)
    async with harness.client(workers, database=driver) as client:
        with client.subscribe() as events:
            inserted = await client.insert(Act("x"))
            await asyncio.wait_for(driver.held_pool.is_held.wait(), GENEROUS)
            assert client._engine is not None
            [producer] = client._engine.queues.producers.values()
            received = asyncio.Event()
            monkeypatch.setattr(producer, "cancel", _then(producer.cancel, received))
            await client.jobs.cancel(inserted.job.id)
            await asyncio.wait_for(received.wait(), GENEROUS)
            driver.held_pool.let_go.set()
            event = await harness.next(events)

    assert (event.kind, called) == (EventKind.JOB_CANCELLED, [])
    row = await harness.row(inserted.job.id)
    assert [error.error for error in row.errors] == ["JobCancelError: job cancelled remotely"]


async def test_cancel_reaches_the_attempt_after_a_snooze(harness: ClientHarness) -> None:
    """runtime: refetched_attempt_cancellation; a cancel stops the new attempt of a job after a snooze."""
    is_waiting = asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        if "snoozes" not in job.metadata:
            raise JobSnooze(timedelta(0))
        is_waiting.set()
        await asyncio.Event().wait()

    async with harness.client(workers) as client:
        with client.subscribe(EventKind.JOB_CANCELLED) as events:
            inserted = await client.insert(Act("x"))
            await asyncio.wait_for(is_waiting.wait(), GENEROUS)
            await client.jobs.cancel(inserted.job.id)
            event = await harness.next(events)

    assert event.job is not None
    assert (event.job.attempt, event.job.metadata["snoozes"]) == (1, 1)


async def test_cancel_during_the_second_fetch_reaches_the_new_attempt(harness: ClientHarness) -> None:
    """runtime: refetched_attempt_cancellation; the old attempt, ended but still listed, does not consume it."""
    attempts = Attempts()
    producer = _producer(harness, attempts)
    probe = Probe(producer)
    held = producer._pool = HeldPool(harness.driver.pool)  # type: ignore[assignment]
    held.let_go.set()
    await harness.insert_raw("act", "{}")
    await producer.start()
    producer.begin()
    await probe.wait("fetched")
    await attempts.wait_begun(1)
    [old] = attempts.made
    old.is_settled = True
    held.is_held.clear()
    held.let_go.clear()
    await harness.execute(MAKE_AVAILABLE)
    producer.request_fetch()
    await asyncio.wait_for(held.is_held.wait(), GENEROUS)

    producer.cancel(old.row.id)
    held.let_go.set()
    await probe.wait("fetched")
    await attempts.wait_begun(2)
    reasons = [attempt.reason for attempt in producer.running]
    await _end(producer, attempts)

    assert reasons == [None, CancelReason.REMOTE]


async def test_attempt_whose_job_was_rescued_and_fetched_again_stays_on_the_list(
    harness: ClientHarness,
) -> None:
    """Both attempts are counted, cancelled and waited for, in any order of their ends."""
    attempts = Attempts()
    producer = _producer(harness, attempts)
    await _fetched_twice(harness, producer, attempts)

    nums = [producer.num_running]
    producer.cancel(1)
    reasons = [attempt.reason for attempt in attempts.made]
    num_cancelled = len(producer.cancel_all(CancelReason.STOPPING))
    idle = asyncio.create_task(producer.wait_idle())
    new, old = attempts.ends[1], attempts.ends[0]
    for end in (new, old):
        end.set()
        await asyncio.wait(
            [attempt.task for attempt in attempts.made if attempt.task], return_when="FIRST_COMPLETED"
        )
        nums.append(producer.num_running)
        assert not (idle.done() and producer.num_running)
    await asyncio.wait_for(idle, GENEROUS)
    await producer.stop()

    assert reasons == [CancelReason.REMOTE] * 2
    assert num_cancelled == 2
    assert (nums[0], producer.num_running) == (2, 0)


async def test_poll_for_cancels_reaches_all_attempts_of_a_job(harness: ClientHarness) -> None:
    """The cancel of a row applies to the overtaken attempt too."""
    attempts = Attempts()
    producer = _producer(harness, attempts)
    await _fetched_twice(harness, producer, attempts)
    await harness.execute(
        'UPDATE river_job SET metadata = \'{"cancel_attempted_at": "2024-05-01T10:00:00Z"}\''
    )

    await QueuePoller(producer, harness.driver.pool).poll_cancellations()
    reasons = [attempt.reason for attempt in attempts.made]
    await _end(producer, attempts)

    assert reasons == [CancelReason.REMOTE] * 2


@pytest.mark.slow
async def test_stop_waits_for_both_attempts_of_a_job(harness: ClientHarness) -> None:
    """A stop waits for both attempts, and the row has the outcome of the first one."""
    gate, begun = asyncio.Event(), asyncio.Semaphore(0)
    ended = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        begun.release()
        await gate.wait()
        ended.append(job.attempt)

    client = harness.client(workers)
    await client.start()
    inserted = await client.insert(Act("x"))
    await asyncio.wait_for(begun.acquire(), GENEROUS)
    await harness.execute(MAKE_AVAILABLE)
    await harness.execute("""SELECT pg_notify('public.river_insert', '{"queue": "default"}')""")
    await asyncio.wait_for(begun.acquire(), GENEROUS)
    num_running = client.num_running
    stopping = asyncio.create_task(client.stop())
    gate.set()
    await asyncio.wait_for(stopping, GENEROUS)

    assert num_running == 2
    assert sorted(ended) == [1, 2]
    assert (await harness.row(inserted.job.id)).state is JobState.COMPLETED


def _then(hear: Callable[[int], None], received: asyncio.Event) -> Callable[[int], None]:
    def on_and_tell(id: int) -> None:
        hear(id)
        received.set()

    return on_and_tell


async def _end(producer: Producer, attempts: Attempts) -> None:
    for end in attempts.ends:
        end.set()
    await producer.stop()
    await producer.wait_idle()
