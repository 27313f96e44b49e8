"""Jobs that end and the jobs that take their slots, in one statement: alone, and beside others."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from limit_races import Race, mutated, partition_lock, within

from limited_queue import CLIENT, LimitedQueue, tenants
from millhand.core.job import JobRow
from millhand.core.limit import Limit
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_cancel
from millhand.limits.job_store import limited_job_complete_and_admit
from millhand.limits.store import limit_partition_hold, limit_partition_set, limit_set

AS_SEEN = "was_ready AND is_as_seen AND"


@pytest.fixture
def queue(tx: Executor) -> LimitedQueue:
    return LimitedQueue(tx, "limited", now=None)


@pytest.fixture
def race(shared_queue: LimitedQueue) -> Race:
    return Race(shared_queue)


async def running(queue: LimitedQueue, *names: str, at_once: int = 1) -> list[JobRow]:
    """Set a limit, insert a job for each name, and return those that run, by id."""
    await queue.set_limit(at_once=at_once, by_args=["tenant"])
    await queue.insert(*names)
    return sorted(await queue.fetch(), key=lambda job: job.id)


async def test_the_slots_of_jobs_that_end_are_taken_by_the_next(queue: LimitedQueue) -> None:
    """Each partition starts as many jobs as ended there, and a partition without further jobs is closed."""
    jobs = await running(queue, *"aaaabbc", at_once=2)
    assert Counter(tenants(jobs)) == Counter("aabbc")

    done = await queue.complete_and_admit(*jobs)

    assert set(done.completed_ids) == {job.id for job in jobs}
    assert tenants(done.admission.jobs) == ["a", "a"]
    assert {await queue.state(job) for job in jobs} == {"completed"}
    assert {await queue.state(job) for job in done.admission.jobs} == {"running"}
    assert [row["is_open"] for row in (await queue.partitions()).values()] == [False, False, False]
    assert (done.admission.has_more, done.admission.is_contended) == (False, False)
    await queue.check()


async def test_other_open_partitions_start_jobs_too(queue: LimitedQueue) -> None:
    """It admits from all open partitions in their turns, up to the number that the caller can work."""
    [job] = await running(queue, "a")
    await queue.insert(*"abc")
    await queue.collect()

    done = await queue.complete_and_admit(job, limit=2)

    assert (done.completed_ids, len(done.admission.jobs), done.admission.has_open) == ([job.id], 2, True)
    assert len((await queue.admit()).jobs) == 1
    await queue.check()


async def test_a_caller_without_free_workers_completes_and_starts_none(queue: LimitedQueue) -> None:
    """The slots are free then, and the next admission gives them."""
    [job, *_] = await running(queue, "a", "a")

    done = await queue.complete_and_admit(job, limit=0)

    assert (done.completed_ids, done.admission.jobs, done.admission.has_open) == ([job.id], [], True)
    assert tenants((await queue.admit()).jobs) == ["a"]
    await queue.check()


@pytest.mark.parametrize(
    "more",
    [
        {"at_once_per_client": 1},
        {"in_order": True},
        {"rate_allowed": 1, "rate_seconds": 1.0, "rate_burst": 1},
        {"total": 5, "num_running": 1},
    ],
)
async def test_it_changes_nothing_under_another_limit_than_a_number_at_once(
    queue: LimitedQueue, more: dict[str, Any]
) -> None:
    """A client may not know yet that the limit has changed: it must use the statements that obey the rest of the limit."""
    [job, *_] = await running(queue, "a", "a")
    await queue.set_limit(at_once=2, by_args=["tenant"], **more)

    done = await queue.complete_and_admit(job)

    assert (done.completed_ids, done.admission.jobs, await queue.state(job)) == ([], [], "running")
    await queue.check()


async def test_only_attempts_of_the_caller_are_completed(queue: LimitedQueue) -> None:
    """Another client's attempt, and another attempt of the job, keep their slots."""
    jobs = await running(queue, *"abab")
    ids = [job.id for job in jobs]
    at = jobs[0].attempted_at
    assert at is not None

    def of(**given: Any) -> Any:
        plain = {"client_id": CLIENT, "attempted_ats": [at] * len(ids)}
        return limited_job_complete_and_admit(
            queue=queue.queue, limit=9, ids=ids, finalized_ats=[at] * len(ids), **{**plain, **given}
        )

    other_client = await queue.executor.run(of(client_id="client_b"))
    other_attempt = await queue.executor.run(of(attempted_ats=[at - timedelta(seconds=1)] * len(ids)))

    assert [other_client.completed_ids, other_attempt.completed_ids] == [[], []]
    assert [other_client.admission.jobs, other_attempt.admission.jobs] == [[], []]
    await queue.check()


async def test_a_partition_on_hold_releases_slots_and_starts_none(queue: LimitedQueue) -> None:
    """The hold outlasts the end of its jobs."""
    [job, *_] = await running(queue, "a", "a")
    await queue.executor.run(limit_partition_hold(queue.queue, ["a"], timedelta(hours=1)))

    done = await queue.complete_and_admit(job)

    assert (done.completed_ids, done.admission.jobs) == ([job.id], [])
    [partition] = (await queue.partitions()).values()
    assert (partition["running"], partition["is_open"], partition["opens_at"] is None) == (0, False, False)
    await queue.check()


async def test_a_partition_with_jobs_of_other_kinds_stays_open(queue: LimitedQueue) -> None:
    """A client of that kind finds it open."""
    [job] = await running(queue, "a")
    await queue.insert("a", kind="pull")
    await queue.collect()

    done = await queue.complete_and_admit(job, kinds=["push"])

    assert (done.completed_ids, done.admission.jobs) == ([job.id], [])
    assert len((await queue.admit(kinds=["pull"])).jobs) == 1
    await queue.check()


async def test_a_job_that_waits_no_more_does_not_hold_up_the_next(queue: LimitedQueue) -> None:
    """It says that there is more, and the next admission deletes the row and starts another job."""
    [job] = await running(queue, "a")
    cancelled, _ = await queue.insert("a", "a")
    await queue.collect()
    await queue.executor.run(job_cancel(cancelled.id, now=cancelled.created_at))

    done = await queue.complete_and_admit(job)

    assert (done.admission.jobs, done.admission.has_more) == ([], True)
    assert tenants((await queue.admit()).jobs) == ["a"]
    await queue.check()


async def test_partitions_take_turns(queue: LimitedQueue) -> None:
    """With a weight of two, a partition starts two jobs for one of the others, as in an admission."""
    await queue.set_limit(at_once=100, by_args=["tenant"])
    await queue.insert(*"ab" * 40)
    await queue.executor.run(limit_partition_set(queue.queue, ["a"], weight=2))
    started = await queue.fetch(6)
    counts = Counter(tenants(started))
    for _ in range(5):
        started = (await queue.complete_and_admit(*started, limit=6)).admission.jobs
        counts += Counter(tenants(started))

    assert counts == Counter(a=24, b=12)
    await queue.check()


# Beside others.


@pytest.mark.slow
async def test_it_waits_for_an_admission_and_counts_the_slots_as_they_are(race: Race) -> None:
    """The partition's row is newer than its snapshot: it releases, starts none there, and says that there is more."""
    [job, *_] = await running(race.queue, *"aaa", at_once=2)

    async with race.held(partition_lock("a")):
        done = await race.blocked(race.queue.complete_and_admit(job))
        admission = await within(race.queue.admit())
    assert admission.jobs == []

    assert (await done).completed_ids == [job.id]
    assert len((await done).admission.jobs) + len(await race.started_later()) == 1
    await race.queue.check()


async def _lowered_while_it_waits(race: Race) -> int:
    """Lower a limit from three to one while a statement waits for the partition; return how many jobs run then."""
    [first, *_] = await running(race.queue, *"aaaaaa", at_once=3)
    async with race.pool.begin() as tx:
        await tx.run(limit_set(race.queue.queue, Limit(at_once=1, by_args=["tenant"])))
        done = await race.blocked(race.queue.complete_and_admit(first))
    race._num_blocked = 0
    assert (await done).completed_ids == [first.id]
    assert (await done).admission.has_more
    await race.queue.check()
    [partition] = (await race.queue.partitions()).values()
    return int(partition["running"])


@pytest.mark.slow
async def test_a_limit_that_is_lowered_while_it_waits_is_obeyed(race: Race) -> None:
    """Its snapshot has the old limit, but the partition was opened since, so it admits no job there."""
    assert await _lowered_while_it_waits(race) == 2


@pytest.mark.slow
async def test_without_the_condition_on_opened_the_old_limit_counts(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant starts a third job, although the limit is one by then."""
    with mutated(monkeypatch, AS_SEEN, "was_ready AND", times=1):
        assert await _lowered_while_it_waits(race) == 3


@pytest.mark.slow
async def test_a_job_that_arrives_while_it_waits_does_not_wait_in_vain(race: Race) -> None:
    """It does not see the job, but that the partition was opened, and leaves it open."""
    [job] = await running(race.queue, "a")

    async with race.held(partition_lock("a")) as tx:
        done = await race.blocked(race.queue.complete_and_admit(job))
        await LimitedQueue(tx, "limited", now=None).insert("a")
        await LimitedQueue(tx, "limited", now=None).collect()

    assert ((await done).completed_ids, (await done).admission.jobs) == ([job.id], [])
    assert await race.started_later() == ["a"]
    await race.queue.check()


@pytest.mark.slow
async def test_a_job_that_a_caller_has_locked_holds_up_no_other(race: Race) -> None:
    """The caller's transaction has one of the jobs that end: the others are completed, and the next start."""
    jobs = await running(race.queue, *"abab")

    async with race.pool.begin() as tx:
        await tx.fetch("SELECT FROM river_job WHERE id = $1 FOR UPDATE", [jobs[0].id])
        done = await within(race.queue.complete_and_admit(*jobs))

    assert (done.completed_ids, tenants(done.admission.jobs)) == ([jobs[1].id], ["b"])
    assert await race.queue.state(jobs[0]) == "running"
    await race.queue.check()


@pytest.mark.slow
async def test_partitions_are_locked_in_the_order_of_their_keys(race: Race) -> None:
    """Beside a release that was given the jobs in the opposite order, both wait for the first key and end."""
    jobs = await running(race.queue, *"abba" * 2, at_once=2)
    a1, b1, b2, a2 = jobs[:4]

    async with race.held(partition_lock("a")):
        completed = await race.blocked(race.queue.complete_and_admit(b1, a1))
        released = await race.blocked(race.queue.complete(a2, b2))
        free = await race.pool.fetch(f"{partition_lock('b')} SKIP LOCKED")

    assert (len((await completed).completed_ids), len(await released), len(free)) == (2, 2, 1)
    assert len((await completed).admission.jobs) + len(await race.started_later()) == 4
    await race.queue.check()


@pytest.mark.slow
async def test_two_of_them_start_different_jobs(race: Race) -> None:
    """Both see the same jobs wait; the second, after the first, starts none of them again, and the limit holds."""
    first, second = await running(race.queue, *"aaaaa", at_once=2)

    async with race.held(partition_lock("a")):
        tasks = [await race.blocked(race.queue.complete_and_admit(job)) for job in (first, second)]

    started = [job.id for task in tasks for job in (await task).admission.jobs]
    assert len(started) == len(set(started)) <= 2
    await race.queue.check()
    assert len(started) + len(await race.started_later()) == 2
    await race.queue.check()


@pytest.mark.slow
async def test_it_skips_open_partitions_that_others_have_locked(race: Race) -> None:
    """A partition that changed since the snapshot is read as it is now, and a locked one is skipped and reported."""
    [job] = await running(race.queue, "a")
    await race.queue.insert(*"abc")
    await race.queue.collect()

    async with race.held(partition_lock("b")):
        done = await within(race.queue.complete_and_admit(job))

    assert (done.completed_ids, sorted(tenants(done.admission.jobs))) == ([job.id], ["a", "c"])
    assert done.admission.is_contended
    assert await race.started_later() == ["b"]
    await race.queue.check()


@pytest.mark.slow
async def test_open_partitions_that_changed_since_the_snapshot_are_read_as_they_are(race: Race) -> None:
    """While it waits for one partition, another admission fills a second: it does not exceed the limit there."""
    [job, *_] = await running(race.queue, *"aa")
    await race.queue.insert(*"bbb")
    await race.queue.collect()

    async with race.held(partition_lock("a")):
        done = await race.blocked(race.queue.complete_and_admit(job))
        assert tenants((await within(race.queue.admit())).jobs) == ["b"]

    assert (await done).completed_ids == [job.id]
    assert "b" not in tenants((await done).admission.jobs)
    await race.queue.check()


def test_an_answer_has_the_figures_in_its_first_row() -> None:
    """Each of a thousand rows need not repeat the ids of the jobs that ended."""
    query = limited_job_complete_and_admit(
        queue="limited", limit=1, client_id=CLIENT, ids=[], attempted_ats=[], finalized_ats=[]
    )

    answer = query.parse([[None] * 15 + [[7], 1.5, True, False, True]])

    assert msgspec.structs.astuple(answer.admission) == ([], {}, 1.5, True, False, True, 0, False)
    assert answer.completed_ids == [7]
