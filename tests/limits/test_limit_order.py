"""A limit in order, beside a transaction of a caller."""

from __future__ import annotations

import contextlib

import pytest
from limit_races import Race, within

from limited_queue import NOW, LimitedQueue, tenants
from millhand.clock import SystemClock
from millhand.driver.protocol import Executor
from millhand.job import JobRow, JobState
from millhand.limit import Limit, QueueLimit
from millhand.maintenance.limit_maintainer import LimitMaintainer
from millhand.store.job import job_cancel, job_delete


class RolledBack(Exception):
    """Ends a transaction of a test."""


@pytest.fixture
async def race(shared_queue: LimitedQueue) -> Race:
    await shared_queue.set_limit(at_once=1, in_order=True)
    return Race(shared_queue)


async def lock(tx: Executor, job: JobRow, change: str) -> None:
    query = job_cancel(job.id, now=job.created_at) if change == "cancel" else job_delete(job.id)
    await tx.run(query)


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
