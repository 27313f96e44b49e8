"""Inserts by COPY: the same rows as any other insert, all or none, from an iterator."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import asyncpg
import msgspec
import psycopg
import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.core.errors import DriverError, InvalidJob, UniqueConflict, UnknownKind
from millhand.core.event import EventKind
from millhand.core.hooks import Hook, Middleware
from millhand.core.insert_opts import InsertOpts, InsertParams, InsertResult
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.insert_batches import BATCH_SIZE

AT = datetime(2040, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
UNIQUE = InsertOpts(unique=UniqueOpts(by_args=True))
EVERYTHING: list[object | tuple[object, InsertOpts | None]] = [
    Act("plain"),
    (Act('é <&> "\\" \t\n\\N \u2028 🦀'), None),
    (Act("later"), InsertOpts(scheduled_at=AT, priority=4, max_attempts=1, queue="high")),
    (Act("pending"), InsertOpts(pending=True, tags=["null", "a-b"], metadata={"a": {"b": ["\\", None]}})),
    (Act("unique"), UNIQUE),
    (
        Act("keyed by state"),
        InsertOpts(unique=UniqueOpts(by_args=True, by_queue=True, by_state=list(JobState))),
    ),
]


def _inserting(harness: ClientHarness, **settings: object) -> Client:
    return harness.client(Workers(), queues={}, **settings)


def _placeless(row: JobRow) -> JobRow:
    """Return a row without its id and times, which differ between inserts."""
    assert row.scheduled_at in (AT, row.created_at)
    at = AT if row.state is JobState.SCHEDULED else row.scheduled_at - row.created_at + AT
    return msgspec.structs.replace(row, id=JobId(0), created_at=AT, scheduled_at=at)


async def test_copied_rows_are_those_of_insert_many(harness: ClientHarness) -> None:
    """For all options, a copied row is the one that `insert_many` writes."""
    async with _inserting(harness) as client:
        await client.insert_many(EVERYTHING)
        inserted = await harness.rows()
        await harness.execute("TRUNCATE river_job")
        num_copied = await client.insert_many_fast(EVERYTHING)
        copied = await harness.rows()

    assert num_copied == len(EVERYTHING)
    assert [_placeless(row) for row in copied] == [_placeless(row) for row in inserted]


@pytest.mark.slow
async def test_only_a_batch_of_jobs_is_alive_at_once(harness: ClientHarness) -> None:
    """Of all jobs of an iterator at most two batches are alive."""

    @dataclass(frozen=True, eq=False)
    class Weak:
        kind: ClassVar[str] = "weak"
        n: int

    living: weakref.WeakSet[Weak] = weakref.WeakSet()
    most = 0

    def jobs() -> Iterator[Weak]:
        nonlocal most
        for n in range(10 * BATCH_SIZE):
            job = Weak(n)
            living.add(job)
            most = max(most, len(living))
            yield job

    async with _inserting(harness) as client:
        num_copied = await client.insert_many_fast(jobs())

    assert num_copied == 10 * BATCH_SIZE
    assert BATCH_SIZE <= most <= 2 * BATCH_SIZE


@pytest.mark.slow
async def test_other_tasks_run_while_jobs_are_copied(harness: ClientHarness) -> None:
    """A plain iterator blocks other tasks for one batch at most."""
    turns, turns_at_batches = 0, []

    async def neighbour() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def jobs() -> Iterator[Act]:
        for n in range(10 * BATCH_SIZE):
            if n % BATCH_SIZE == 0:
                turns_at_batches.append(turns)
            yield Act(str(n))

    async with _inserting(harness) as client, asyncio.TaskGroup() as group:
        task = group.create_task(neighbour())
        await client.insert_many_fast(jobs())
        task.cancel()

    assert len(set(turns_at_batches)) == 10


async def test_jobs_may_come_from_an_asynchronous_iterator(harness: ClientHarness) -> None:
    """Its jobs are worked in their order."""

    async def jobs() -> AsyncIterator[object]:
        for n in range(BATCH_SIZE + 1):
            await asyncio.sleep(0)
            yield Act(str(n)), InsertOpts(priority=2)

    async with _inserting(harness) as client:
        assert await client.insert_many_fast(jobs()) == BATCH_SIZE + 1

    assert [row.args["what"] for row in await harness.rows()] == [str(n) for n in range(BATCH_SIZE + 1)]


@pytest.mark.slow
async def test_copied_job_wakes_a_worker(harness: ClientHarness) -> None:
    """A worker that polls once a minute works a copied job at once."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    client = harness.client(workers, fetch_poll_interval=timedelta(minutes=1))
    with client.subscribe() as events:
        async with client:
            await client.insert(Act("first"))  # the fetch with which it started is over
            await harness.next(events)
            await client.insert_many_fast([Act("second")])
            event = await harness.next(events)

    assert event.kind is EventKind.JOB_COMPLETED


@pytest.mark.slow
async def test_queues_are_announced_at_the_commit(harness: ClientHarness) -> None:
    """Each queue with an available job is announced once at the commit, and not after a rollback."""
    received: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(harness.url)
    await listener.add_listener("public.river_insert", lambda *words: received.put_nowait(words[-1]))
    jobs = [
        *((Act(str(n)), InsertOpts(queue="one")) for n in range(3)),
        (Act("x"), InsertOpts(queue="two")),
        (Act("later"), InsertOpts(queue="three", scheduled_at=AT)),
        (Act("pending"), InsertOpts(queue="four", pending=True)),
    ]
    try:
        async with _inserting(harness) as client:
            connection = await asyncpg.connect(harness.url)
            transaction = connection.transaction()
            await transaction.start()
            await client.insert_many_fast(jobs, tx=connection)
            await transaction.rollback()
            async with connection.transaction():
                await client.insert_many_fast(jobs, tx=connection)
                unseen = await harness.rows()
            await client.insert_many_fast([(Act("last"), InsertOpts(queue="last"))])
            payloads = [await asyncio.wait_for(received.get(), GENEROUS) for _ in range(3)]
            await connection.close()
    finally:
        await listener.close()

    assert unseen == []
    assert payloads == ['{"queue": "one"}', '{"queue": "two"}', '{"queue": "last"}']
    assert [row.queue for row in await harness.rows()] == [
        "one",
        "one",
        "one",
        "two",
        "three",
        "four",
        "last",
    ]


async def test_duplicate_key_fails_all(harness: ClientHarness) -> None:
    """13: A unique key of an existing job, or of another job of the call, raises, and no job is inserted."""
    async with _inserting(harness) as client:
        taken = await client.insert(Act("taken"), UNIQUE)
        for jobs in ([Act("x"), (Act("taken"), UNIQUE)], [(Act("twice"), UNIQUE)] * 2):
            with pytest.raises(UniqueConflict) as conflict:
                await client.insert_many_fast(jobs)
            assert str(conflict.value) == (
                "unique key must be free, got a job in conflict with another job (river_job_unique_idx); "
                "insert_many skips duplicates"
            )
            assert isinstance(conflict.value.__cause__, DriverError)
            assert conflict.value.__cause__.sqlstate == "23505"

    assert [row.id for row in await harness.rows()] == [taken.job.id]


async def test_empty_iterator_raises(harness: ClientHarness) -> None:
    """An empty list or iterator raises, as with `insert_many`."""

    async def nothing() -> AsyncIterator[object]:
        for job in ():
            yield job

    async with _inserting(harness) as client:
        for jobs in ([], iter([]), nothing()):
            with pytest.raises(InvalidJob, match=r"^jobs to insert must be at least one, got none$"):
                await client.insert_many_fast(jobs)


async def test_mistake_in_the_first_batch_leaves_the_transaction_as_it_was(harness: ClientHarness) -> None:
    """An invalid job raises before the first statement; in a later batch the transaction must roll back."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    wrong = harness.args_of_kind("foreign")
    async with harness.client(workers) as client:
        connection = await asyncpg.connect(harness.url)
        transaction = connection.transaction()
        await transaction.start()
        with pytest.raises(UnknownKind):
            await client.insert_many_fast([Act("x"), wrong], tx=connection)
        still_good = await connection.fetchval("SELECT 1")
        with pytest.raises(UnknownKind):
            await client.insert_many_fast([*[Act("x")] * BATCH_SIZE, wrong], tx=connection)
        with pytest.raises(asyncpg.InFailedSQLTransactionError):
            await connection.fetchval("SELECT 1")
        await transaction.rollback()
        await connection.close()

    assert still_good == 1
    assert await harness.rows() == []


async def test_error_of_the_iterator_is_raised_unchanged(harness: ClientHarness) -> None:
    """No job is inserted."""
    error = TimeoutError("the list of customers took too long")

    async def jobs() -> AsyncIterator[object]:
        for n in range(2 * BATCH_SIZE):
            yield Act(str(n))
        raise error

    async with _inserting(harness) as client:
        with pytest.raises(TimeoutError) as raised:
            await client.insert_many_fast(jobs())
        await client.insert(Act("after"))

    assert raised.value is error
    assert [row.args for row in await harness.rows()] == [{"what": "after"}]


async def test_cancelled_insert_inserts_nothing(harness: ClientHarness) -> None:
    """A cancelled insert leaves no job, and its connection works."""
    waiting = asyncio.Event()

    async def jobs() -> AsyncIterator[object]:
        for n in range(2 * BATCH_SIZE):
            yield Act(str(n))
        waiting.set()
        await asyncio.get_running_loop().create_future()

    async with _inserting(harness) as client:
        task = asyncio.ensure_future(client.insert_many_fast(jobs()))
        await asyncio.wait_for(waiting.wait(), GENEROUS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.insert(Act("after"))

    assert [row.args for row in await harness.rows()] == [{"what": "after"}]


async def test_middleware_and_hooks_see_batches(harness: ClientHarness) -> None:
    """Middleware runs around each batch, outermost first, without results; a hook may change or refuse a job."""
    emitted: list[str] = []

    class Around(Middleware):
        def __init__(self, name: str) -> None:
            self.name = name

        async def insert(
            self,
            params: Sequence[InsertParams],
            call_next: Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]],
        ) -> Sequence[InsertResult]:
            emitted.append(f"{self.name} before {len(params)}")
            results = await call_next(params)
            emitted.append(f"{self.name} after {len(results)}")
            return results

    class Tagger(Hook):
        async def insert_begin(self, params: InsertParams) -> InsertParams:
            if "refuse" in params.encoded_args:
                raise ValueError("refused")
            return msgspec.structs.replace(params, tags=("tagged",))

    async with _inserting(harness, middleware=[Around("outer"), Around("inner")], hooks=[Tagger()]) as client:
        await client.insert_many_fast(Act(str(n)) for n in range(BATCH_SIZE + 1))
        with pytest.raises(ValueError, match=r"^refused$"):
            await client.insert_many_fast([*[Act("x")] * BATCH_SIZE, Act("refuse")])

    around = [["outer before {n}", "inner before {n}", "inner after 0", "outer after 0"]] * 2
    expected = [text.format(n=n) for texts, n in zip(around, (BATCH_SIZE, 1), strict=True) for text in texts]
    assert emitted[: len(expected)] == expected
    rows = await harness.rows()
    assert (len(rows), {row.tags for row in rows}) == (BATCH_SIZE + 1, {("tagged",)})


async def test_middleware_may_drop_batches(harness: ClientHarness) -> None:
    """A dropped batch is not inserted, and the others are."""

    class Picky(Middleware):
        async def insert(
            self,
            params: Sequence[InsertParams],
            call_next: Callable[[Sequence[InsertParams]], Awaitable[Sequence[InsertResult]]],
        ) -> Sequence[InsertResult]:
            return await call_next([one for one in params if "good" in one.encoded_args])

    jobs = [*[Act("bad")] * BATCH_SIZE, *[Act("bad")] * BATCH_SIZE, Act("good"), Act("bad")]
    async with _inserting(harness, middleware=[Picky()]) as client:
        num_copied = await client.insert_many_fast(jobs)

    assert num_copied == 1
    assert [row.args for row in await harness.rows()] == [{"what": "good"}]


@pytest.mark.slow
async def test_bulk_insert_into_a_shared_queue_is_all_or_none(harness: ClientHarness) -> None:
    """
    Jobs of a shared queue are inserted batch by batch, as waiting jobs that no Go worker can take.

    If a later batch has a taken key, a caller that catches the conflict and commits has none of them.
    """
    jobs = [Act(str(number)) for number in range(BATCH_SIZE)]
    async with _inserting(harness) as client:
        await client.limits.set("default", at_once=1, shared=True)
        assert client._engine is not None
        await client._engine.rules.watcher.read()
        await client.insert(Act("taken"), UNIQUE)
        connection = await asyncpg.connect(harness.url)
        async with connection.transaction():
            with pytest.raises(UniqueConflict):
                await client.insert_many_fast([*jobs, (Act("taken"), UNIQUE)], tx=connection)
        after_conflict = len(await harness.rows())
        async with connection.transaction():
            await client.insert_many_fast(jobs, tx=connection)
        await connection.close()
        rows = await harness.rows()

    assert (after_conflict, len(rows)) == (1, 1 + BATCH_SIZE)
    assert {row.state for row in rows} == {JobState.PENDING}


async def test_bulk_insert_into_a_shared_queue_is_rolled_back_by_psycopg(harness: ClientHarness) -> None:
    """On a psycopg connection without autocommit, a bulk insert that is the first statement is the caller's to commit."""
    async with (
        _inserting(harness) as client,
        await psycopg.AsyncConnection.connect(harness.url) as connection,
    ):
        await client.limits.set("default", at_once=1, shared=True)
        assert client._engine is not None
        await client._engine.rules.watcher.read()
        await client.insert_many_fast([Act("rolled back")], tx=connection)
        await connection.rollback()
        rolled_back = await harness.rows()
        await client.insert_many_fast([Act("committed")], tx=connection)
        await connection.commit()

    assert (rolled_back, [row.args for row in await harness.rows()]) == ([], [{"what": "committed"}])
