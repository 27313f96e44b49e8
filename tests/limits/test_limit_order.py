"""A limit in order, beside a transaction of a caller."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from limit_races import LIMIT, Race, mutated, partition_lock, within

from limited_queue import NOW, LimitedQueue, tenants
from millhand.core.clock import SystemClock
from millhand.core.insert_opts import InsertParams
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.limit import Limit, QueueLimit
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_cancel, job_delete, job_retry, job_schedule
from millhand.engine.store.job_copy import job_copy
from millhand.limits.job_store import BATCH_SIZE, limited_job_wait_again
from millhand.limits.maintainer import LimitMaintainer


class RolledBack(Exception):
    """Ends a transaction of a test."""


@pytest.fixture
async def race(shared_queue: LimitedQueue) -> Race:
    await shared_queue.set_limit(at_once=1, in_order=True)
    return Race(shared_queue)


async def lock(tx: Executor, job: JobRow, change: str) -> None:
    query = job_cancel(job.id, now=job.created_at) if change == "cancel" else job_delete(job.id)
    await tx.run(query)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["cancel", "delete"])
async def test_no_job_overtakes_one_that_a_caller_has_locked(race: Race, change: str) -> None:
    """After the caller's rollback, the first job starts before the second."""
    first, _ = await race.queue.insert(*"ab")
    await race.queue.collect()

    with contextlib.suppress(RolledBack):
        async with race.pool.begin() as tx:
            await lock(tx, first, change)
            beside = await within(race.started_beside())
            raise RolledBack
    started = await race.queue.fetch()

    assert (tenants(beside), tenants(started)) == ([], ["a"])
    await race.queue.check()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["cancel", "delete"])
async def test_the_next_job_starts_after_one_that_a_caller_ended(race: Race, change: str) -> None:
    """After the caller's commit, the row of the first job is forgotten and the second starts."""
    first, _ = await race.queue.insert(*"ab")
    await race.queue.collect()

    async with race.pool.begin() as tx:
        await lock(tx, first, change)
    started = [*await race.queue.fetch(), *await race.queue.fetch()]

    assert tenants(started) == ["b"]
    await race.queue.check()


@pytest.mark.slow
async def test_a_limit_that_becomes_in_order_starts_one_job_after_the_other_by_id(
    shared_queue: LimitedQueue,
) -> None:
    """Jobs that run then run on, and the next starts after all of them; those that wait start by id."""
    await shared_queue.set_limit(at_once=2)
    running = [await shared_queue.insert("a", priority=3), await shared_queue.insert("b", priority=3)]
    first, second = [job for jobs in running for job in jobs]
    started = await shared_queue.fetch()
    waiting = [*await shared_queue.insert("c", priority=4), *await shared_queue.insert("d", priority=1)]
    await shared_queue.set_limit(at_once=1, in_order=True)
    new = await shared_queue.insert("e", priority=1)
    limit = QueueLimit(
        queue=shared_queue.queue, limit=Limit(in_order=True), declared=None, num_running=0, updated_at=NOW
    )
    maintainer = LimitMaintainer(
        shared_queue.executor, clock=SystemClock(), limits=lambda: {shared_queue.queue: limit}
    )

    await maintainer.run_once()
    beside = [await shared_queue.fetch()]
    await shared_queue.complete(*(job for job in started if job.id == first.id))
    beside.append(await shared_queue.fetch())
    await shared_queue.end(*(job for job in started if job.id == second.id), state=JobState.AVAILABLE)
    await maintainer.run_once()
    order = []
    for _ in range(4):
        [job] = await shared_queue.fetch()
        order += tenants([job])
        await shared_queue.complete(job)

    assert (len(started), beside) == (2, [[], []])
    assert order == ["b", *tenants(waiting), *tenants(new)]
    await shared_queue.check()


# Jobs that come as available ones, and those that `insert` lets wait at once.

SQL_INSERT = """
INSERT INTO river_job (kind, args, max_attempts, queue)
VALUES ('push', '{"tenant": "a"}', 25, $1)
"""
ONLY_IN_ORDER = "AND (SELECT in_order FROM limits)"
WAS_IN_USE = "WHEN was_in_use THEN 0"


async def _copy(queue: LimitedQueue) -> None:
    async def batches() -> AsyncIterator[list[InsertParams]]:
        yield [queue.params("a")]

    async with queue.executor.begin() as tx:
        await tx.copy(job_copy(batches()))


async def _sql(queue: LimitedQueue) -> None:
    await queue.executor.fetch(SQL_INSERT, [queue.queue])


async def _unaware(queue: LimitedQueue) -> None:
    await queue.insert_unaware("a")


async def _scheduled(queue: LimitedQueue) -> None:
    at = datetime.now(UTC) - timedelta(seconds=1)
    await queue.insert_unaware("a", state=JobState.SCHEDULED, scheduled_at=at)
    await queue.executor.run(job_schedule(now=datetime.now(UTC), limit=10))


async def _retried(queue: LimitedQueue) -> None:
    [job] = await queue.insert(
        "a", state=JobState.SCHEDULED, scheduled_at=datetime.now(UTC) + timedelta(days=1)
    )
    await queue.executor.run(job_retry(job.id))


WAYS = [_copy, _sql, _unaware, _scheduled, _retried]


async def newest_id(queue: LimitedQueue) -> JobId:
    [row] = await queue.executor.fetch("SELECT max(id) AS id FROM river_job")
    return JobId(row["id"])


async def _started_without_a_collect(
    race: Race, way: Callable[[LimitedQueue], Awaitable[None]]
) -> list[JobRow]:
    """Insert a job in a way, and a later one that waits at once; return what an admission starts without a collect."""
    await race.queue.insert("a")
    [running] = await race.queue.fetch()
    await way(race.queue)
    await race.queue.insert("a")
    await race.queue.complete(running)
    return (await race.queue.admit()).jobs


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_no_job_overtakes_one_that_no_collect_has_found(
    race: Race, way: Callable[[LimitedQueue], Awaitable[None]]
) -> None:
    """However a job came, an admission without a collect starts no later one. After a collect, they start by id."""
    started = await _started_without_a_collect(race, way)
    ids = []
    while found := await race.queue.fetch():
        ids += [job.id for job in found]
        await race.queue.complete(*found)

    newest = await newest_id(race.queue)
    assert (started, ids) == ([], [newest - 1, newest])
    await race.queue.check()


async def test_an_admission_behind_an_available_job_asks_for_a_collect(race: Race) -> None:
    """It reports that available jobs are not collected, and one after the collect does not."""
    await race.queue.insert("a")
    await race.queue.collect()
    await race.queue.insert_unaware("b")

    before = await race.queue.admit()
    await race.queue.collect()
    after = await race.queue.admit()

    assert (tenants(before.jobs), before.has_uncollected) == (["a"], True)
    assert (tenants(after.jobs), after.has_uncollected) == ([], False)


async def _overtaken_beside_a_collect(race: Race) -> list[JobRow]:
    """Let a collect wait for a caller's lock, insert a job that waits at once, and return what starts meanwhile."""
    await race.queue.set_limit(at_once=1, in_order=True, by_args=["tenant"])
    await race.queue.insert("a")
    await race.queue.complete(*await race.queue.fetch())

    async with race.held(partition_lock("a")):
        await race.queue.insert_unaware("a", "b")
        collect = await race.blocked(race.queue.collect())
        await race.queue.insert("b")
        await within(race.queue.collect())
        beside = await within(race.started_beside())
    await collect
    return beside


@pytest.mark.slow
async def test_no_job_overtakes_one_that_a_collect_has_locked(race: Race) -> None:
    """A collect waits for a caller's lock of one partition. In another one, no later job starts before those it found."""
    beside = await _overtaken_beside_a_collect(race)
    started = [*await race.queue.fetch()]
    await race.queue.complete(*started)
    then = await race.queue.fetch()

    assert beside == []
    assert sorted(tenants(started)) == ["a", "b"]
    assert tenants(then) == ["b"]
    assert max(job.id for job in started) < then[0].id
    await race.queue.check()


@pytest.mark.slow
async def test_the_next_partition_does_not_wait_for_one_that_is_not_collected(race: Race) -> None:
    """An available job delays only the later ones of its own partition."""
    await race.queue.set_limit(at_once=1, in_order=True, by_args=["tenant"])
    await race.queue.insert_unaware("a")
    await race.queue.insert("a", "b")
    await race.queue.executor.fetch(
        "INSERT INTO millhand_limit_partition (queue, partition_key, turn) VALUES ($1, '[\"a\"]', 0), ($1, '[\"b\"]', 0)",
        [race.queue.queue],
    )

    assert tenants((await race.queue.admit()).jobs) == ["b"]


@pytest.mark.slow
async def test_without_the_condition_on_available_jobs_a_later_one_starts_first(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant starts the later job: the order is the one that the condition is for."""
    with mutated(monkeypatch, ONLY_IN_ORDER, "AND FALSE", times=2):
        assert tenants(await _overtaken_beside_a_collect(race)) == ["b"]


@pytest.mark.slow
async def test_a_batch_of_a_collect_starts_no_job_before_those_that_it_left(race: Race) -> None:
    """A collect goes by priority, and its batch ends before the first job of the partition: that one starts first."""
    [first, *_] = [
        *await race.queue.insert_unaware("a", priority=4),
        *await race.queue.insert_unaware(*"a" * BATCH_SIZE, priority=1),
    ]

    one = await race.queue.fetch()
    two = await race.queue.fetch()

    assert (one, [job.id for job in two]) == ([], [first.id])


@pytest.mark.slow
async def test_an_admission_reads_a_bounded_number_of_available_jobs(race: Race) -> None:
    """If more are not collected than an admission reads, it starts none: an earlier one may be among the others."""
    await race.queue.insert("a")
    await race.queue.collect()
    await race.queue.executor.fetch(
        "INSERT INTO river_job (kind, args, max_attempts, queue)"
        " SELECT 'push', '{\"tenant\": \"b\"}', 25, $1 FROM generate_series(1, 10001)",
        [race.queue.queue],
    )

    before = (await race.queue.admit()).jobs
    await race.queue.collect()
    after = (await race.queue.admit()).jobs

    assert (before, tenants(after)) == ([], ["a"])


async def _retried_beside_an_admission(race: Race) -> list[JobRow]:
    """Let a job that kept its slot wait again, between the snapshot of an admission and its locks; return what starts."""
    await race.queue.set_limit(at_once=1, in_order=True, total=10)
    await race.queue.insert("a", "b")
    [first] = await race.queue.fetch()
    await race.queue.insert("c")
    await race.queue.executor.fetch("UPDATE millhand_limit_partition SET is_open = true")
    await race.queue.end(first, state=JobState.AVAILABLE)
    async with race.held(LIMIT) as tx:
        admission = await race.blocked(race.queue.admit())
        await tx.run(limited_job_wait_again())
    admitted = await admission
    assert admitted.jobs or admitted.has_more
    return admitted.jobs


@pytest.mark.slow
async def test_no_job_overtakes_one_that_waits_again_since_the_snapshot(race: Race) -> None:
    """In the snapshot of the admission the job has the slot, so it starts nothing. The next one starts this job."""
    started = await _retried_beside_an_admission(race)

    assert (started, tenants(await race.queue.fetch())) == ([], ["a"])
    await race.queue.check()


@pytest.mark.slow
async def test_without_the_condition_on_the_slot_of_the_snapshot_a_later_job_starts_before_a_retry(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant starts the next job: the order is the one that the condition is for."""
    with mutated(monkeypatch, WAS_IN_USE, "WHEN FALSE THEN 0", times=2):
        assert tenants(await _retried_beside_an_admission(race)) == ["b"]
