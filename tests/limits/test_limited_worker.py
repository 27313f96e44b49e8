"""Workers of a limited queue: clients, slots and wake-ups, on a real database. No test waits for a poll."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

import asyncpg
import pytest
from limit_races import BLOCKED

from client_harness import GENEROUS, ClientHarness
from limited_queue import LimitedQueue
from millhand.client import Client
from millhand.core.config import Config, QueueConfig
from millhand.core.errors import JobSnooze
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts
from millhand.core.limit import Limit, Rate
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.limits.job_store import limited_job_collect
from millhand.testing import Probe
from served import until

T = TypeVar("T")
NO_POLLS = timedelta(minutes=5)


@dataclass(frozen=True)
class Push:
    kind: ClassVar[str] = "push"
    tenant: str
    number: int = 0


@dataclass(frozen=True)
class Echo:
    kind: ClassVar[str] = "echo"
    number: int


class Soon:
    """Retries at once."""

    def next_retry_at(self, job: object, *, now: datetime) -> datetime:
        return now


class Room:
    """Counts the jobs that run, by tenant, and the most there were; each waits until the others had a turn."""

    def __init__(self, num_jobs: int) -> None:
        self.done = asyncio.Event()
        self.largest: Counter[str] = Counter()
        self.order: list[Push] = []
        self._left = num_jobs
        self._running: Counter[str] = Counter()

    def workers(self, on_job: Callable[[Job[Push]], Awaitable[None]] | None = None) -> Workers:
        workers = Workers()

        @workers.add()
        async def push(job: Job[Push]) -> None:
            if on_job is not None:
                await on_job(job)
            tenant = job.args.tenant
            self.order.append(job.args)
            self._running[tenant] += 1
            self.largest[tenant] = max(self.largest[tenant], self._running[tenant])
            for _ in range(10):
                await asyncio.sleep(0)
            self._running[tenant] -= 1
            self._left -= 1
            if not self._left:
                self.done.set()

        return workers

    async def wait(self) -> None:
        await asyncio.wait_for(self.done.wait(), GENEROUS)


def client(harness: ClientHarness, workers: Workers, limit: Limit | None, **settings: Any) -> Client:
    queue = QueueConfig(max_workers=20, limit=limit)
    return harness.client(
        workers, **{"queues": {"default": queue}, "fetch_poll_interval": NO_POLLS, **settings}
    )


@pytest.mark.slow
async def test_a_limit_holds_and_each_free_slot_is_taken_at_once(harness: ClientHarness) -> None:
    """Twenty workers, two slots a tenant: never a third job of one at once, and no slot waits for a poll."""
    room = Room(60)
    async with client(harness, room.workers(), Limit(at_once=2, by_args=["tenant"])) as worker:
        await worker.insert_many([Push("abc"[number % 3], number) for number in range(60)])
        await room.wait()

    assert room.largest == {"a": 2, "b": 2, "c": 2}


@pytest.mark.slow
async def test_jobs_in_order_start_by_id_however_they_were_inserted(harness: ClientHarness) -> None:
    """COPY and two inserts beside a caller's lock of a partition: once it ends, all jobs start, and each tenant's by id."""
    room, tenants = Room(1_600), [f"t{n}" for n in range(40)]
    jobs = [Push(tenants[number % 40], number) for number in range(1_600)]
    limit = Limit(in_order=True, by_args=["tenant"])
    async with client(harness, room.workers(), limit) as worker, client(harness, room.workers(), limit):
        connection = await asyncpg.connect(harness.url)
        async with connection.transaction():
            await worker.limits.set_partition("default", ["t20"], weight=2, tx=connection)
            await worker.insert_many_fast(jobs[:1_100])
            async with asyncio.timeout(GENEROUS):
                while not await connection.fetchval(BLOCKED):
                    pass
            await worker.insert_many(jobs[1_100:1_300])
            await worker.insert_many_fast(jobs[1_300:1_500])
            await worker.insert_many(jobs[1_500:])
        await connection.close()
        await room.wait()

    for tenant in tenants:
        assert [job.number for job in room.order if job.tenant == tenant] == sorted(
            job.number for job in jobs if job.tenant == tenant
        )


@pytest.mark.slow
async def test_half_of_the_workers_are_admitted_together(harness: ClientHarness) -> None:
    """While one half of the workers waits for its outcomes to be written, the other half works."""
    begun, end = asyncio.Semaphore(0), asyncio.Event()

    async def stay(job: Job[Push]) -> None:
        begun.release()
        await end.wait()

    room = Room(6)
    worker = client(
        harness,
        room.workers(stay),
        None,
        queues={"default": QueueConfig(max_workers=4, limit=Limit(at_once=6))},
    )
    async with worker:
        assert worker._engine is not None
        probe = Probe(worker._engine.queues.producers["default"])
        await worker.insert_many([Push("a", number) for number in range(6)])
        fetched = []
        while sum(fetched) < 4:
            fetched.append(await probe.wait("fetched"))
        for _ in range(4):
            await begun.acquire()
        end.set()
        await room.wait()

    assert [num for num in fetched if num] == [2, 2]


async def test_clients_share_the_slots(harness: ClientHarness) -> None:
    """Three clients together hold the limit, and all of their jobs are worked."""
    room, limit = Room(40), Limit(at_once=3)
    async with (
        client(harness, room.workers(), limit, fetch_poll_interval=timedelta(seconds=1)) as first,
        client(harness, room.workers(), limit, fetch_poll_interval=timedelta(seconds=1)),
        client(harness, room.workers(), limit, fetch_poll_interval=timedelta(seconds=1)),
    ):
        await first.insert_many([Push("a", number) for number in range(40)])
        await room.wait()

    assert room.largest["a"] <= 3


@pytest.mark.slow
@pytest.mark.parametrize("way", ["insert", "insert_many_fast", "other client", "transaction"])
async def test_each_way_of_inserting_starts_jobs_at_once(harness: ClientHarness, way: str) -> None:
    """Jobs of COPY, of clients that do not know the limit, and of the caller's transaction wait for no poll."""
    room = Room(10)
    jobs = [Push("a", number) for number in range(10)]
    async with client(harness, room.workers(), Limit(at_once=2)) as worker:
        if way == "insert":
            for job in jobs:
                await worker.insert(job)
        elif way == "insert_many_fast":
            await worker.insert_many_fast(jobs)
        elif way == "other client":
            async with Client(harness.url, Config()) as other:
                await other.insert_many(jobs)
        else:
            async with worker.driver.pool.begin() as tx:
                await worker._inserter.insert_many([(job, None) for job in jobs], tx)
        await room.wait()

    assert room.largest["a"] <= 2


@pytest.mark.slow
@pytest.mark.parametrize("is_limit_known", [True, False])
async def test_jobs_that_another_client_collects_meanwhile_start_at_once(
    harness: ClientHarness, is_limit_known: bool
) -> None:
    """Two clients are notified of a job: the second sees it in vain while the first collects it, and looks again."""
    room, queue = Room(1), LimitedQueue(harness.driver.pool, "default", now=None)
    async with client(harness, room.workers(), Limit(at_once=2)) as worker:
        producer = worker._engine.queues.producers["default"]
        probe = Probe(producer)
        await (queue.insert("a") if is_limit_known else queue.insert_unaware("a"))
        async with harness.driver.pool.begin() as tx:
            await tx.run(limited_job_collect("default"))
            producer.request_fetch()
            await until(_value(lambda: producer._queue_fetch.may_have_arrived), lambda it: not it)
            probe.forget("fetched")
            await probe.wait("fetched")
        await room.wait()

    assert [push.tenant for push in room.order] == ["a"]


@pytest.mark.slow
async def test_failed_jobs_release_their_slots(harness: ClientHarness) -> None:
    """Each job fails once and is worked again; the limit holds throughout."""
    room, failed = Room(10), set()

    async def fail_first(job: Job[Push]) -> None:
        if job.args.number not in failed:
            failed.add(job.args.number)
            raise ValueError(job.args.number)

    workers = room.workers(fail_first)
    async with client(harness, workers, Limit(at_once=2), retry_policy=Soon()) as worker:
        await worker.insert_many([Push("a", number) for number in range(10)])
        await room.wait()

    assert room.largest["a"] <= 2
    assert len(failed) == 10


@pytest.mark.slow
async def test_deleted_completed_jobs_release_their_slots(harness: ClientHarness) -> None:
    """keep_completed=False: the statement that deletes the job frees the slot."""
    room = Room(10)
    async with client(harness, room.workers(), Limit(at_once=1), keep_completed=False) as worker:
        await worker.insert_many([Push("a", number) for number in range(10)])
        await room.wait()

    assert [job.number for job in room.order] == list(range(10))
    assert await harness.rows() == []


@pytest.mark.slow
async def test_a_rate_starts_jobs_without_polls(harness: ClientHarness) -> None:
    """The worker wakes for each next start by itself."""
    room = Room(8)
    limit = Limit(rate=Rate(100, per=timedelta(seconds=1), burst=1))
    async with client(harness, room.workers(), limit) as worker:
        await worker.insert_many([Push("a", number) for number in range(8)])
        await room.wait()
        rows = await harness.rows()

    starts = sorted(row.attempted_at for row in rows)
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    assert min(gaps) >= timedelta(milliseconds=9.99)


@pytest.mark.slow
async def test_a_snooze_may_hold_its_partition(harness: ClientHarness) -> None:
    """A job that is told to come back later lets the other jobs of its tenant wait too, and none of another."""
    room, delays = Room(4), [timedelta(hours=1), timedelta(milliseconds=50)]

    async def hold(job: Job[Push]) -> None:
        if job.args.tenant == "a" and delays:
            raise JobSnooze(delays.pop(0), hold_partition=True)

    limit = Limit(at_once=1, by_args=["tenant"])
    async with client(harness, room.workers(hold), limit) as worker:
        with worker.subscribe(EventKind.JOB_SNOOZED) as events:
            await worker.insert_many([Push("a", 1), Push("a", 2), Push("b", 3), Push("b", 4)])
            snoozed = await harness.next(events)
        await until(_value(lambda: len(room.order)), lambda num: num == 2)
        [held] = [one for one in await worker.limits.partitions("default") if one.held_until is not None]
        await worker.jobs.retry(snoozed.job.id)
        await worker.limits.release("default", ["a"])
        await room.wait()

    assert (held.key, held.running, held.waiting) == ('["a"]', 0, 1)
    assert [job.tenant for job in room.order] == ["b", "b", "a", "a"]


@pytest.mark.slow
async def test_a_limit_of_each_client_counts_its_own_jobs(harness: ClientHarness) -> None:
    """One client takes two of the fleet's ten slots at most."""
    room = Room(20)
    async with client(harness, room.workers(), Limit(at_once=10, at_once_per_client=2)) as worker:
        await worker.insert_many([Push("a", number) for number in range(20)])
        await room.wait()

    assert room.largest["a"] == 2


@pytest.mark.slow
async def test_queues_without_limit_in_the_same_client_are_worked_as_before(harness: ClientHarness) -> None:
    """A client works a limited queue and another; outcomes of both are written."""
    room = Room(20)
    queues = {
        "default": QueueConfig(max_workers=5, limit=Limit(at_once=1)),
        "other": QueueConfig(max_workers=5),
    }
    async with client(harness, room.workers(), None, queues=queues) as worker:
        jobs = [
            (Push("ab"[number % 2], number), InsertOpts(queue=["default", "other"][number % 2]))
            for number in range(20)
        ]
        await worker.insert_many(jobs)
        await room.wait()

    assert (room.largest["a"], Counter(row.state.value for row in await harness.rows())) == (
        1,
        {"completed": 20},
    )


@pytest.mark.slow
async def test_a_leader_that_idled_frees_the_jobs_of_a_removed_limit_at_once(harness: ClientHarness) -> None:
    """A limit that is set and removed while the leader knew of none keeps no job waiting for the leader's next minute."""
    room, begun, removed = Room(3), asyncio.Event(), asyncio.Event()

    async def wait(job: Job[Push]) -> None:
        if job.args.number == 0:
            begun.set()
            await removed.wait()

    async with client(harness, room.workers(wait), None, leader_election=True) as worker:
        maintainer = worker._engine.rules._maintainer
        await until(_value(lambda: maintainer._known), lambda known: known is not None)
        await worker.limits.set("default", at_once=1)
        await worker.insert_many([Push("a", number) for number in range(3)])
        await begun.wait()
        await worker.limits.remove("default")
        await until(_value(lambda: len(room.order)), lambda num: num == 2)
        removed.set()
        await room.wait()

    assert [push.number for push in room.order] == [1, 2, 0]


def _value(read: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    async def reader() -> T:
        await asyncio.sleep(0)
        return read()

    return reader


@pytest.mark.slow
async def test_awaited_jobs_of_a_limited_queue_are_kept_and_others_deleted(harness: ClientHarness) -> None:
    """Without completed jobs, each caller gets its output, the other jobs are deleted, and all slots are released."""
    room = Room(2)
    workers = room.workers()

    @workers.add(output=True)
    async def echo(job: Job[Echo]) -> int:
        return job.args.number

    queue = QueueConfig(max_workers=20, limit=Limit(at_once=2))
    settings = {"queues": {"default": queue}, "fetch_poll_interval": NO_POLLS, "keep_completed": False}
    async with harness.client(workers, **settings) as worker:
        await worker.insert_many([Push("a"), Push("b")])
        outputs = await asyncio.gather(
            *(
                worker.insert_and_wait(Echo(number), returns=int, timeout=timedelta(seconds=GENEROUS))
                for number in range(9)
            )
        )
        await room.wait()
        rows = await until(
            lambda: harness.driver.pool.fetch("SELECT job_id FROM millhand_limited_job"),
            lambda rows: not rows,
        )
        kinds = Counter(row.kind for row in await harness.rows())

    assert (outputs, rows) == ([*range(9)], [])
    assert kinds == {"echo": 9}
