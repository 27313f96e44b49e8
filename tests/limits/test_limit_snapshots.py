"""Statements that wait with an older snapshot while the limit, a job or its slot changes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from limit_races import LIMIT, Race, mutated, partition_lock, within

from limited_queue import CLIENT, LimitedQueue
from millhand.core.job import JobRow, JobState
from millhand.core.limit import Limit, Rate
from millhand.limits.job_store import (
    limited_job_admit_available,
    limited_job_get_available,
    limited_job_release_ended,
    limited_job_snooze,
)
from millhand.limits.store import limit_remove, limit_set

HOUR = timedelta(hours=1)
NEW_LIMITS = {
    "fewer at once": Limit(at_once=1, total=10, by_args=["tenant"]),
    "in order": Limit(in_order=True, total=10, by_args=["tenant"]),
    "a rate": Limit(total=10, by_args=["tenant"], rate=Rate(1, per=HOUR, burst=1)),
}
RELEASES: dict[str, Callable[[LimitedQueue, JobRow], Coroutine[Any, Any, object]]] = {
    "complete": lambda queue, job: queue.complete(job),
    "complete and admit": lambda queue, job: queue.complete_and_admit(job),
    "fail": lambda queue, job: queue.end(job, state=JobState.DISCARDED, finalized_at=job.attempted_at),
}


@pytest.fixture
def race(shared_queue: LimitedQueue) -> Race:
    return Race(shared_queue)


async def three_jobs_wait(race: Race) -> None:
    await race.queue.set_limit(at_once=3, total=10, by_args=["tenant"])
    await race.queue.insert(*"aaa")
    await race.queue.collect()


# An admission under a total, which waits for the row of the limit.


@pytest.mark.slow
@pytest.mark.parametrize("new", NEW_LIMITS)
async def test_an_admission_that_waits_for_a_change_of_the_limit_obeys_the_new_limit(
    race: Race, new: str
) -> None:
    """Its snapshot has a limit of three at once. The change that it waits for lets one job start."""
    await three_jobs_wait(race)

    async with race.held() as tx:
        await tx.run(limit_set("limited", NEW_LIMITS[new]))
        admission = await race.blocked(race.queue.admit())

    assert len((await admission).jobs) == 1
    assert await race.started_later() == []
    await race.queue.check()


@pytest.mark.slow
async def test_an_admission_that_waits_while_the_total_is_removed_starts_no_job(race: Race) -> None:
    """The row that it waits for has no total, so it does not read the new limit. The next admission obeys that."""
    await three_jobs_wait(race)

    async with race.held() as tx:
        await tx.run(limit_set("limited", Limit(at_once=1, by_args=["tenant"])))
        admission = await race.blocked(race.queue.admit())

    assert (await admission).jobs == []
    assert await race.started_later() == ["a"]
    await race.queue.check()


@pytest.mark.slow
async def test_an_admission_that_waits_while_the_limit_is_removed_starts_no_job(race: Race) -> None:
    """The leader makes the jobs of a removed limit available."""
    await three_jobs_wait(race)

    async with race.held() as tx:
        await tx.run(limit_remove("limited"))
        admission = await race.blocked(race.queue.admit())

    assert (await admission).jobs == []


@pytest.mark.slow
async def test_an_admission_starts_no_job_that_was_snoozed_while_it_waited(race: Race) -> None:
    """In a shared queue a snoozed job stays pending; the admission saw it wait for a slot."""
    await race.queue.set_limit(at_once=5, total=5, is_shared=True)
    [job] = await race.queue.insert("a")
    await race.queue.collect()

    async with race.held(LIMIT):
        admission = await race.blocked(race.queue.admit())
        await within(race.pool.run(limited_job_snooze(job.id, datetime.now(UTC) + HOUR)))

    assert ((await admission).jobs, await race.queue.state(job)) == ([], "pending")
    [limited] = await race.queue.limited_jobs()
    assert (limited["is_later"], limited["admitted_at"]) == (True, None)
    await race.queue.check()


# A release that waits for a partition.


@pytest.mark.slow
@pytest.mark.parametrize("how", RELEASES)
@pytest.mark.parametrize(
    "new", [Limit(at_once=1, by_args=["tenant"]), Limit(in_order=True, by_args=["tenant"])]
)
async def test_a_release_opens_a_partition_that_is_full_by_a_newer_limit(
    race: Race, how: str, new: Limit
) -> None:
    """By the limit of its snapshot the partition was not full, so that no job would wait. Its next job starts."""
    await race.queue.set_limit(at_once=2, by_args=["tenant"])
    await race.queue.insert("a")
    [job] = await race.queue.fetch()

    async with race.held(partition_lock("a")) as tx:
        release = await race.blocked(RELEASES[how](race.queue, job))
        beside = LimitedQueue(tx, "limited", now=None)
        await tx.run(limit_set("limited", new))
        await beside.insert("a")
        started_beside = await beside.fetch()
    await release

    assert (started_beside, await race.started_later()) == ([], ["a"])
    await race.queue.check()


# A collect that stands still between its snapshot and its lock of a job.


@pytest.mark.slow
async def test_a_collect_takes_no_job_that_has_got_a_slot_since_its_snapshot(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another collect and the leader made the job available for Go with a slot. It keeps both."""
    await race.queue.set_limit(at_once=5, is_shared=True)
    [job] = await race.queue.insert_unaware("a")
    known = "AND EXISTS (SELECT FROM /* schema */millhand_limit WHERE queue = @queue)"

    async with race.held(LIMIT):
        with mutated(monkeypatch, known, known[:-1] + " FOR UPDATE)"):
            collect = await race.blocked(race.queue.collect())
        await within(race.queue.collect())
        admitted = await within(race.pool.run(limited_job_admit_available(queue="limited", limit=10)))
    await collect
    await race.pool.run(limited_job_release_ended())

    assert (admitted.num_jobs, await race.queue.state(job)) == (1, "available")
    await race.queue.check()
    fetched = await race.pool.run(limited_job_get_available(queue="limited", limit=10, client_id=CLIENT))
    assert [one.id for one in fetched] == [job.id]
