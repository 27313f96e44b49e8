"""A limited queue's next fetch completes the jobs that ended: in clients, with failures, pauses and stops between."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from test_limited_worker import NO_POLLS, Push, Room

from client_harness import GENEROUS, ClientHarness, until
from limited_queue import LimitedQueue
from millhand.client import Client
from millhand.core.config import QueueConfig
from millhand.core.errors import DriverError, MillhandError, OperationTimeout
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts
from millhand.core.limit import Limit
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.limits.job_store import limited_job_admit_available

T = TypeVar("T")

BY_FETCH = "limited_job_complete_and_admit"
ALONE = "limited_job_complete_many"
FETCHES = (BY_FETCH, "limited_job_admit")


class WatchedPool:
    """Records the names of statements; `before` and `after` may raise in place of an answer."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self.after: Callable[[str], None] = lambda _name: None
        self.before: Callable[[str], None] = lambda _name: None
        self.names: list[str] = []

    async def run(self, query: Query[T]) -> T:
        self.names.append(query.name)
        self.before(query.name)
        answer = await self._pool.run(query)
        self.after(query.name)
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class WatchedDriver(AsyncpgDriver):
    def __init__(self, url: str) -> None:
        super().__init__(url, "", pool_size=4)
        self.watched = WatchedPool(super().pool)

    @property
    def pool(self) -> Executor:
        return self.watched  # type: ignore[return-value]  # it is one, by __getattr__


class FailOnce:
    """Raises an error for the first statement of a name."""

    def __init__(self, name: str, error: MillhandError) -> None:
        self._error = error
        self._name = name
        self.has_failed = False

    def __call__(self, name: str) -> None:
        if name == self._name and not self.has_failed:
            self.has_failed = True
            raise self._error


@pytest.fixture
def driver_of(harness: ClientHarness) -> WatchedDriver:
    return WatchedDriver(harness.url)


def client(harness: ClientHarness, database: WatchedDriver, room: Room, **settings: Any) -> Client:
    queue = QueueConfig(max_workers=20, limit=Limit(at_once=1, by_args=["tenant"]))
    given = {"queues": {"default": queue}, "fetch_poll_interval": NO_POLLS, **settings}
    workers = given.pop("workers", None)
    return harness.client(room.workers() if workers is None else workers, database=database, **given)


async def states(harness: ClientHarness) -> Counter[str]:
    return Counter(row.state.value for row in await harness.rows())


async def slots(harness: ClientHarness) -> tuple[int, int]:
    """Return how many slots partitions count, and how many jobs have one or wait for one."""
    pool = harness.driver.pool
    [counted] = await pool.fetch("SELECT coalesce(sum(running), 0) AS num FROM millhand_limit_partition")
    [jobs] = await pool.fetch("SELECT count(*) AS num FROM millhand_limited_job")
    return counted["num"], jobs["num"]


@pytest.mark.slow
async def test_a_job_that_ends_and_the_next_one_need_one_statement(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """Five jobs of one tenant: each end starts the next, no other statement completes, and each other fetch collects."""
    room = Room(5)
    async with client(harness, driver_of, room) as worker:
        with worker.subscribe(EventKind.JOB_COMPLETED) as events:
            await worker.insert_many([Push("a", number) for number in range(5)])
            completed = [await harness.next(events) for _ in range(5)]

    names = Counter(driver_of.watched.names)
    assert [event.job.args["number"] for event in completed] == list(range(5))
    assert (names[BY_FETCH], names[ALONE]) == (5, 0)
    assert names["limited_job_admit"] == names["limited_job_collect"]
    assert (await states(harness), await slots(harness)) == ({"completed": 5}, (0, 0))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [Limit(in_order=True), Limit(at_once=1, total=1)])
async def test_under_another_limit_jobs_are_completed_by_themselves(
    harness: ClientHarness, driver_of: WatchedDriver, limit: Limit
) -> None:
    """The statement that does both knows only a number at once."""
    room = Room(3)
    queue = QueueConfig(max_workers=20, limit=limit)
    async with client(harness, driver_of, room, queues={"default": queue}) as worker:
        await worker.insert_many([Push("a", number) for number in range(3)])
        await room.wait()

    names = Counter(driver_of.watched.names)
    assert (names[BY_FETCH], names[ALONE] > 0) == (0, True)
    assert (await states(harness), await slots(harness)) == ({"completed": 3}, (0, 0))


@pytest.mark.slow
async def test_a_limit_that_gets_a_total_later_is_obeyed(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """The row of the limit has a total before the client knows of it: the job is completed with it all the same."""
    begun, end, room = asyncio.Event(), asyncio.Event(), Room(1)

    async def stay(job: Job[Push]) -> None:
        begun.set()
        await end.wait()

    worker = client(harness, driver_of, room, workers=room.workers(stay), poll_only=True)
    async with worker:
        with worker.subscribe(EventKind.JOB_COMPLETED) as events:
            await worker.insert(Push("a"))
            worker._engine.queues.producers["default"].request_fetch()
            await begun.wait()
            await harness.execute("UPDATE millhand_limit SET total = 5, num_running = 1")
            end.set()
            await harness.next(events)

    [limit] = await harness.driver.pool.fetch("SELECT num_running FROM millhand_limit")
    assert limit["num_running"] == 0
    assert driver_of.watched.names.count(BY_FETCH) == 1
    assert (await states(harness), await slots(harness)) == ({"completed": 1}, (0, 0))


@pytest.mark.slow
async def test_a_paused_queue_completes_and_starts_none(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """The outcome of a job that ran at the pause is written at once; the next starts after the resume."""
    begun, end, room = asyncio.Event(), asyncio.Event(), Room(2)

    async def stay(job: Job[Push]) -> None:
        begun.set()
        await end.wait()

    async with client(harness, driver_of, room, workers=room.workers(stay)) as worker:
        producer = worker._engine.queues.producers["default"]
        with worker.subscribe(EventKind.JOB_COMPLETED) as events:
            await worker.insert_many([Push("a", 0), Push("a", 1)])
            await begun.wait()
            await worker.queues.pause("default")
            await until(lambda: producer.is_paused)
            end.set()
            first = await harness.next(events)
            paused = await states(harness)
            await worker.queues.resume("default")
            second = await harness.next(events)

    assert (first.job.args["number"], second.job.args["number"]) == (0, 1)
    assert paused == {"completed": 1, "pending": 1}
    assert (await states(harness), await slots(harness)) == ({"completed": 2}, (0, 0))


@pytest.mark.slow
async def test_jobs_that_end_during_a_stop_are_completed(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """Fetching has stopped, so the completer writes them itself, and no other job starts."""
    begun, end, room = asyncio.Event(), asyncio.Event(), Room(2)

    async def stay(job: Job[Push]) -> None:
        begun.set()
        await end.wait()

    worker = client(harness, driver_of, room, workers=room.workers(stay))
    await worker.start()
    await worker.insert_many([Push("a", 0), Push("a", 1)])
    await begun.wait()
    producer = worker._engine.queues.producers["default"]
    stop = asyncio.ensure_future(worker.stop())
    await until(lambda: producer.wake_event.is_stopping)
    end.set()
    await asyncio.wait_for(stop, GENEROUS)

    assert Counter(driver_of.watched.names)[BY_FETCH] == 0
    assert await states(harness) == {"completed": 1, "pending": 1}
    assert await slots(harness) == (0, 1)


@pytest.mark.slow
async def test_a_fetch_that_was_given_jobs_and_is_not_sent_gives_them_back(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """The limit is removed between the end of the job and the fetch: the completer writes it."""
    begun, end, room = asyncio.Event(), asyncio.Event(), Room(1)

    async def stay(job: Job[Push]) -> None:
        begun.set()
        await end.wait()

    async with client(harness, driver_of, room, workers=room.workers(stay)) as worker:
        engine = worker._engine
        producer = engine.queues.producers["default"]
        give = producer._queue_fetch.complete

        def complete(ended: Any) -> Any:
            engine.rules.fetched_queues = ()
            return give(ended)

        producer._queue_fetch.complete = complete
        with worker.subscribe(EventKind.JOB_COMPLETED) as events:
            await worker.insert(Push("a"))
            await begun.wait()
            end.set()
            await harness.next(events)

    names = Counter(driver_of.watched.names)
    assert (names[BY_FETCH], names[ALONE]) == (0, 1)
    assert (await states(harness), await slots(harness)) == ({"completed": 1}, (0, 0))


@pytest.mark.slow
async def test_after_a_failure_the_completer_writes_jobs_itself(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """A minute long, so that a lock that a user holds on a partition holds up one fetch and not each."""
    room = Room(4)
    driver_of.watched.before = FailOnce(BY_FETCH, OperationTimeout(BY_FETCH, 10.0))
    async with client(harness, driver_of, room) as worker:
        await worker.insert_many([Push("a", number) for number in range(4)])
        await room.wait()

    names = Counter(driver_of.watched.names)
    assert (names[BY_FETCH], names[ALONE] > 0) == (1, True)
    assert [push.number for push in room.order] == list(range(4))
    assert (await states(harness), await slots(harness)) == ({"completed": 4}, (0, 0))


@pytest.mark.slow
async def test_a_statement_that_the_database_refuses_loses_no_job(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """An error that no retry cures may come of the jobs that start: those that ended are written without them."""
    room = Room(4)
    driver_of.watched.before = FailOnce(BY_FETCH, DriverError(BY_FETCH, "an error", sqlstate="22000"))
    async with client(harness, driver_of, room) as worker:
        await worker.insert_many([Push("a", number) for number in range(4)])
        await room.wait()

    assert [push.number for push in room.order] == list(range(4))
    assert (await states(harness), await slots(harness)) == ({"completed": 4}, (0, 0))


@pytest.mark.slow
async def test_an_answer_that_is_lost_loses_no_job_and_works_none_twice(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """The statement completed one job and started the next: one event each, and the client finds what it started."""
    room = Room(3)
    driver_of.watched.after = FailOnce(BY_FETCH, OperationTimeout(BY_FETCH, 10.0))
    async with client(harness, driver_of, room) as worker:
        with worker.subscribe(EventKind.JOB_COMPLETED) as events:
            await worker.insert_many([Push("a", number) for number in range(3)])
            completed = [await harness.next(events) for _ in range(3)]

    assert sorted(event.job.args["number"] for event in completed) == [0, 1, 2]
    assert [push.number for push in room.order] == [0, 1, 2]
    assert room.largest["a"] == 1
    assert (await states(harness), await slots(harness)) == ({"completed": 3}, (0, 0))


@pytest.mark.slow
async def test_a_job_that_a_caller_has_locked_holds_up_no_fetch(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """A job ended whose row a user's transaction has: jobs of other tenants start and end."""
    begun, end, room = asyncio.Event(), asyncio.Event(), Room(3)

    async def stay(job: Job[Push]) -> None:
        if job.args.tenant == "a":
            begun.set()
            await end.wait()

    async with client(harness, driver_of, room, workers=room.workers(stay)) as worker:
        locked = await worker.insert(Push("a"))
        await begun.wait()
        async with harness.driver.pool.begin() as tx:
            await tx.fetch("SELECT FROM river_job WHERE id = $1 FOR UPDATE", [locked.job.id])
            end.set()
            await worker.insert_many([Push("b", 1), Push("b", 2)])
            await until(lambda: [push.tenant for push in room.order].count("b") > 0)
        await room.wait()

    assert (await states(harness), await slots(harness)) == ({"completed": 3}, (0, 0))


@pytest.mark.slow
async def test_jobs_of_two_limited_queues_are_completed_together(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """One statement writes a batch of several queues; each queue then fetches."""
    room = Room(4)
    queue = QueueConfig(max_workers=20, limit=Limit(at_once=1))
    queues = {"default": queue, "other": queue}
    both = asyncio.Barrier(2)

    async def meet(job: Job[Push]) -> None:
        await both.wait()

    async with client(harness, driver_of, room, queues=queues, workers=room.workers(meet)) as worker:
        await worker.insert_many(
            [(Push(name, number), InsertOpts(queue=name)) for number in range(2) for name in queues]
        )
        await room.wait()

    assert driver_of.watched.names.count(ALONE) > 0
    assert (await states(harness), await slots(harness)) == ({"completed": 4}, (0, 0))


@pytest.mark.slow
async def test_a_cooldown_does_not_delay_outcomes(harness: ClientHarness, driver_of: WatchedDriver) -> None:
    """With five minutes between fetches, a fetch that completes jobs is sent at once."""
    room = Room(3)
    settings = {"fetch_cooldown": timedelta(minutes=5), "fetch_poll_interval": timedelta(minutes=6)}
    async with client(harness, driver_of, room, **settings) as worker:
        await worker.insert_many([Push("a", number) for number in range(3)])
        worker._engine.queues.producers["default"]._last_fetch = -1e9
        worker._engine.queues.producers["default"].request_fetch()
        await room.wait()

    assert await states(harness) == {"completed": 3}


@pytest.mark.slow
async def test_a_cooldown_does_not_delay_jobs_that_have_slots(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """In a queue that Go workers share, each end starts the next available job, with five minutes between fetches."""
    room, queue = Room(4), LimitedQueue(harness.driver.pool, "default", now=None)
    await queue.set_limit(at_once=4, is_shared=True)
    for number in range(4):
        await queue.insert("a", encoded_args=f'{{"tenant": "a", "number": {number}}}')
    await queue.collect()
    await queue.executor.run(limited_job_admit_available(queue="default", limit=4))
    settings = {"fetch_cooldown": timedelta(minutes=5), "fetch_poll_interval": timedelta(minutes=6)}
    queues = {"default": QueueConfig(max_workers=1, limit=Limit(at_once=4, shared=True))}
    async with client(harness, driver_of, room, queues=queues, **settings):
        await room.wait()

    assert [push.number for push in room.order] == [0, 1, 2, 3]
    assert (await states(harness), await slots(harness)) == ({"completed": 4}, (0, 0))


@pytest.mark.slow
async def test_jobs_of_another_tenant_start_in_turn_while_all_workers_are_busy(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """Each fetch that completes a job starts the next one, so no worker is free: a new tenant waits for three at most."""
    room = Room(21)

    async def insert(job: Job[Push]) -> None:
        if job.args.number == 0:
            await worker.insert(Push("b", 1_000))
            await until(lambda: producer._queue_fetch.may_have_arrived)

    queue = QueueConfig(max_workers=1, limit=Limit(at_once=1, by_args=["tenant"]))
    workers, queues = room.workers(insert), {"default": queue}
    async with client(harness, driver_of, room, workers=workers, queues=queues) as worker:
        producer = worker._engine.queues.producers["default"]
        await worker.insert_many([Push("a", number) for number in range(20)])
        await room.wait()

    assert "b" in [push.tenant for push in room.order][:4]


@pytest.mark.slow
async def test_a_fetch_that_completes_jobs_puts_off_neither_a_poll_nor_another_fetch(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """It looks for no job that arrived: where jobs end all the time, new tenants would wait for all of them."""
    room, seen = Room(3), []

    async def look(job: Job[Push]) -> None:
        seen.append((producer._last_fetch, producer._poll_at))

    settings = {"fetch_cooldown": timedelta(minutes=5), "fetch_poll_interval": timedelta(minutes=6)}
    async with client(harness, driver_of, room, workers=room.workers(look), **settings) as worker:
        producer = worker._engine.queues.producers["default"]
        await worker.insert_many([Push("a", number) for number in range(3)])
        producer._last_fetch = -1e9
        producer.request_fetch()
        await room.wait()

    assert seen == [seen[0]] * 3


class LatePool:
    """Runs statements; the first answer of BY_FETCH waits until `wait` returns."""

    def __init__(self, pool: Executor, wait: Callable[[], Awaitable[None]]) -> None:
        self._has_waited = False
        self._pool = pool
        self._wait = wait

    async def run(self, query: Query[T]) -> T:
        answer = await self._pool.run(query)
        if query.name == BY_FETCH and not self._has_waited:
            self._has_waited = True
            await self._wait()
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


@pytest.mark.slow
async def test_jobs_begin_after_the_completions_that_wait_were_sent(
    harness: ClientHarness, driver_of: WatchedDriver
) -> None:
    """Two jobs end while two others are completed: their statement is sent before the jobs begin that took the slots."""
    room, sent = Room(6), {}
    first, second = asyncio.Event(), asyncio.Event()

    async def stay(job: Job[Push]) -> None:
        sent[job.args.number] = driver_of.watched.names.count(BY_FETCH)
        if job.args.number < 4:
            await (first if job.args.number < 2 else second).wait()

    async def end_others() -> None:
        second.set()
        await until(lambda: worker._engine.completer.count_kept() == 4)

    driver_of.watched = WatchedPool(LatePool(driver_of.watched._pool, end_others))
    queues = {"default": QueueConfig(max_workers=8, limit=Limit(at_once=4))}
    async with client(harness, driver_of, room, workers=room.workers(stay), queues=queues) as worker:
        await worker.insert_many([Push("a", number) for number in range(6)])
        await until(lambda: len(sent) == 4)
        first.set()
        await room.wait()

    assert sent == {0: 0, 1: 0, 2: 0, 3: 0, 4: 2, 5: 2}
