"""
Limits under real concurrency: statements on several connections, ordered by the locks that another one holds.

A total makes an admission wait for the row of the limit, after its snapshot and before it locks partitions. A locked row
of millhand_limited_job makes it wait after it has locked them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import timedelta

import pytest
from limit_races import LIMIT, Race, limited_lock, mutated, partition_lock, within

from limited_queue import LimitedQueue, tenants
from millhand.core.clock import SystemClock
from millhand.core.job import JobRow, JobState
from millhand.core.limit import Limit
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_cancel, job_delete, job_retry
from millhand.limits.job_store import limited_job_insert_many
from millhand.limits.maintainer import LimitMaintainer
from millhand.limits.store import limit_partition_hold, limit_partition_set, limit_set

OPENED_CONDITION = "AND is_as_seen AS is_exhausted"


@pytest.fixture
def race(shared_queue: LimitedQueue) -> Race:
    return Race(shared_queue)


async def cancel(executor: Executor, job: JobRow) -> None:
    await executor.run(job_cancel(job.id, now=job.created_at))


async def insert_in(tx: Executor, race: Race, *names: str) -> None:
    await tx.run(limited_job_insert_many([race.queue.params(name) for name in names]))


# An insert, the collect that opens its partition, and an admission that finds no further job there: the orders of the proof.


@pytest.mark.slow
async def test_a_job_that_was_inserted_before_the_admission_is_admitted(race: Race) -> None:
    """Committed before the admission's snapshot: it sees the job, whenever the partition is opened."""
    await race.queue.set_limit(at_once=10, total=10, by_args=["tenant"])
    await race.queue.insert("a")
    await race.queue.collect()
    await race.queue.insert("a")

    async with race.held(LIMIT):
        admission = await race.blocked(race.queue.admit())
        await race.queue.collect()

    assert tenants((await admission).jobs) == ["a", "a"]
    assert await race.started_later() == []
    await race.queue.check()


async def _opened_before_the_lock(race: Race) -> list[str]:
    """Insert and collect between the snapshot of an admission and its lock of the partition; return what starts later."""
    await race.queue.set_limit(at_once=10, total=10, by_args=["tenant"])
    await race.queue.insert("a")
    await race.queue.collect()
    async with race.held(LIMIT):
        admission = await race.blocked(race.queue.admit())
        await race.queue.insert("a")
        await race.queue.collect()
    assert tenants((await admission).jobs) == ["a"]
    return await race.started_later()


@pytest.mark.slow
async def test_a_partition_that_was_opened_before_the_lock_stays_open(race: Race) -> None:
    """The admission does not see the job, but that the partition was opened after its snapshot: it does not close it."""
    assert await _opened_before_the_lock(race) == ["a"]
    await race.queue.check()


@pytest.mark.slow
async def test_without_the_condition_on_opened_the_job_waits_in_vain(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant closes the partition, and no later fetch finds the job: the order is the one that the condition is for."""
    with mutated(monkeypatch, OPENED_CONDITION, "AND TRUE AS is_exhausted", times=3):
        assert await _opened_before_the_lock(race) == []


@pytest.mark.slow
async def test_a_partition_that_is_opened_after_the_lock_is_open_in_the_end(race: Race) -> None:
    """The admission closes the partition while the collect waits for its lock; the collect opens it again."""
    await race.queue.set_limit(at_once=10, by_args=["tenant"])
    [job] = await race.queue.insert("a")
    await race.queue.collect()

    async with race.held(limited_lock(job.id)):
        admission = await race.blocked(race.queue.admit())
        await race.queue.insert("a")
        collect = await race.blocked(race.queue.collect())

    await collect
    assert tenants((await admission).jobs) == ["a"]
    assert await race.started_later() == ["a"]
    await race.queue.check()


# A discard that halts a partition, and a collect that opens it.


async def _halted_before_the_collect(race: Race) -> list[str]:
    """Discard a job between the snapshot of a collect and its lock of the partition; return what starts later."""
    await race.queue.set_limit(at_once=1, in_order=True, halt=True, by_args=["tenant"])
    await race.queue.insert("a")
    running = await race.queue.fetch()
    await race.queue.insert("a")
    async with race.held(partition_lock("a")):
        discard = await race.blocked(
            race.queue.end(*running, state=JobState.DISCARDED, finalized_at=running[0].attempted_at)
        )
        collect = await race.blocked(race.queue.collect())
    await discard
    await collect
    return await race.started_later()


@pytest.mark.slow
async def test_a_collect_that_began_before_the_discard_leaves_the_partition_halted(race: Race) -> None:
    """The arrival of the next job opens the partition as it is after the discard, and that is halted."""
    assert await _halted_before_the_collect(race) == []
    await race.queue.check()


@pytest.mark.slow
async def test_without_the_halt_as_a_hold_the_next_job_starts(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant records the job that failed finally and does not hold the partition: the collect opens it."""
    halt = "WHEN freed.halted_by IS NULL THEN freed.held_until"
    with mutated(monkeypatch, halt, "WHEN TRUE THEN freed.held_until"):
        assert await _halted_before_the_collect(race) == ["a"]


async def _halted_during_the_collect(race: Race) -> list[str]:
    """Run and discard a job that waits, while a collect with an older snapshot waits for another partition."""
    await race.queue.set_limit(at_once=1, in_order=True, halt=True, by_args=["tenant"])
    await race.queue.insert("0", "a")
    await race.queue.collect()
    await race.queue.insert("0", "a")
    async with race.held(partition_lock("0")):
        collect = await race.blocked(race.queue.collect())
        [running] = (await race.queue.admit()).jobs
        await race.queue.end(running, state=JobState.DISCARDED, finalized_at=running.attempted_at)
    await collect
    return await race.started_later()


@pytest.mark.slow
async def test_a_collect_that_saw_the_job_wait_before_it_was_discarded_leaves_the_partition_halted(
    race: Race,
) -> None:
    """A job that waits and has halted its partition was retried; but in this snapshot it had not run yet."""
    assert await _halted_during_the_collect(race) == ["0"]
    await race.queue.check()


@pytest.mark.slow
async def test_without_the_comparison_of_snapshots_a_collect_ends_the_halt(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant reads that the job waits, as it did before the discard, and starts the next one."""
    with mutated(monkeypatch, "\npartition.opened = (", "\npartition.opened >= (", times=1):
        assert await _halted_during_the_collect(race) == ["0", "a"]


# A release and an admission.


@pytest.mark.slow
async def test_a_release_after_the_admission_that_filled_the_partition_opens_it(race: Race) -> None:
    """The release waits for the admission, sees that the partition is full, and opens it."""
    await race.queue.set_limit(at_once=2, by_args=["tenant"])
    jobs = await race.queue.insert(*"aaa")
    await race.queue.collect()
    [running] = (await race.queue.admit(1)).jobs

    async with race.held(limited_lock(jobs[1].id)):
        admission = await race.blocked(race.queue.admit())
        release = await race.blocked(race.queue.complete(running))

    assert (await release, len((await admission).jobs)) == ([running.id], 1)
    assert await race.started_later() == ["a"]
    await race.queue.check()


@pytest.mark.slow
async def test_an_admission_with_an_older_snapshot_counts_the_slots_as_they_are(race: Race) -> None:
    """A release between the snapshot and the lock: the admission gives the free slots, and no more."""
    await race.queue.set_limit(at_once=3, total=10, by_args=["tenant"])
    await race.queue.insert(*"aaaaaa")
    await race.queue.collect()
    first, second = (await race.queue.admit(2)).jobs

    async with race.held(LIMIT) as tx:
        admission = await race.blocked(race.queue.admit())
        await LimitedQueue(tx, "limited", now=None).complete(first, second)

    assert len((await admission).jobs) == 3
    assert await race.started_later() == []
    await race.queue.check()


@pytest.mark.slow
async def test_an_admission_skips_a_partition_that_a_release_has_locked(race: Race) -> None:
    """It waits for nobody, says that there is more, and the next one finds the job."""
    await race.queue.set_limit(at_once=1, by_args=["tenant"])
    await race.queue.insert(*"aab")
    await race.queue.collect()
    [running] = (await race.queue.admit(1)).jobs
    await race.queue.executor.fetch("UPDATE millhand_limit_partition SET is_open = true")

    async with race.pool.begin() as tx:
        await LimitedQueue(tx, "limited", now=None).complete(running)
        beside = await within(race.queue.admit())

    assert (tenants(beside.jobs), beside.is_contended) == (["b"], True)
    assert await race.started_later() == ["a"]
    await race.queue.check()


@pytest.mark.slow
async def test_releases_lock_partitions_in_the_order_of_their_keys(race: Race) -> None:
    """Two releases that are given jobs in opposite orders wait for the first key, and hold none behind it."""
    await race.queue.set_limit(at_once=10, by_args=["tenant"])
    await race.queue.insert(*"abba")
    a1, b1, b2, a2 = sorted(await race.queue.fetch(), key=lambda job: job.id)

    async with race.held(partition_lock("a")):
        completed = await race.blocked(race.queue.complete(a1, b1))
        failed = await race.blocked(
            race.queue.end(b2, a2, state=JobState.DISCARDED, finalized_at=a1.created_at)
        )
        free = await race.pool.fetch(f"{partition_lock('b')} SKIP LOCKED")

    assert (len(await completed), len(await failed), len(free)) == (2, 2, 1)
    assert {row["running"] for row in (await race.queue.partitions()).values()} == {0}
    await race.queue.check()


# Two admissions.


@pytest.mark.slow
async def test_two_admissions_of_one_partition_never_exceed_its_limit(race: Race) -> None:
    """The second skips what the first has locked, and says that there is more."""
    await race.queue.set_limit(at_once=3, by_args=["tenant"])
    jobs = await race.queue.insert(*"aaaaa")
    await race.queue.collect()

    async with race.held(limited_lock(jobs[0].id)):
        first = await race.blocked(race.queue.admit(2))
        second = await within(race.queue.admit(2))

    assert (len((await first).jobs), second.jobs, second.is_contended) == (2, [], True)
    assert len(await race.started_later()) == 1
    await race.queue.check()


@pytest.mark.slow
@pytest.mark.parametrize(("at_once", "num_jobs"), [(2, 5), (3, 5), (10, 5), (10, 3), (10, 2)])
async def test_two_admissions_with_one_snapshot_admit_different_jobs(
    race: Race, at_once: int, num_jobs: int
) -> None:
    """Both see the same jobs wait. The second, after the first, admits none of them again and none too many."""
    await race.queue.set_limit(at_once=at_once, total=10, by_args=["tenant"])
    jobs = await race.queue.insert(*"a" * num_jobs)
    await race.queue.collect()

    async with race.held(LIMIT):
        tasks = [await race.blocked(race.queue.admit(2)) for _ in range(2)]

    started = [job.id for task in tasks for job in (await task).jobs]
    assert len(started) == len(set(started)) <= at_once
    await race.queue.check()
    assert len(started) + len(await race.started_later()) == min(at_once, num_jobs)
    assert len(await race.queue.limited_jobs()) == len(jobs)
    await race.queue.check()


@pytest.mark.slow
async def test_admissions_under_a_total_wait_for_each_other(race: Race) -> None:
    """Three admissions of two jobs each in different partitions, under a total of three, start three."""
    await race.queue.set_limit(at_once=2, total=3, by_args=["tenant"])
    await race.queue.insert(*"aabbcc")
    await race.queue.collect()

    async with race.held(LIMIT):
        tasks = [await race.blocked(race.queue.admit(2)) for _ in range(3)]

    assert sum([len((await task).jobs) for task in tasks]) <= 3
    await race.queue.check()
    await race.started_later()
    [limit] = await race.pool.fetch("SELECT num_running FROM millhand_limit")
    assert limit["num_running"] == 3
    await race.queue.check()


@pytest.mark.slow
async def test_a_collect_and_an_admission(race: Race) -> None:
    """An admission beside an open collect skips what that has locked; a job of an unaware client starts afterwards."""
    await race.queue.set_limit(at_once=2, by_args=["tenant"])
    await race.queue.insert(*"ab")
    await race.queue.collect()
    await race.queue.insert_unaware("a")

    async with race.pool.begin() as tx:
        await LimitedQueue(tx, "limited", now=None).collect()
        beside = await within(race.queue.admit())

    assert (tenants(beside.jobs), beside.is_contended) == (["b"], True)
    assert await race.started_later() == ["a", "a"]
    await race.queue.check()


@pytest.mark.slow
async def test_two_collects_take_different_jobs(race: Race) -> None:
    """The second takes what the first has not locked; each job has one row, and all start."""
    await race.queue.set_limit(at_once=10, by_args=["tenant"])
    await race.queue.insert_unaware(*"ab")

    async with race.pool.begin() as tx:
        await LimitedQueue(tx, "limited", now=None).collect()
        await race.queue.insert_unaware(*"cd")
        await within(race.queue.collect())

    assert Counter(await race.started_later()) == Counter("abcd")
    await race.queue.check()


# A caller's transaction that stays open.


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 2, 10])
@pytest.mark.parametrize("change", ["cancel", "delete"])
async def test_a_job_that_a_caller_has_locked_does_not_hold_up_others(
    race: Race, change: str, at_once: int
) -> None:
    """The callers's transaction cancelled or deleted the first job: others of its partition start, up to the limit."""
    await race.queue.set_limit(at_once=at_once, by_args=["tenant"])
    first, *_ = await race.queue.insert(*"aab")
    await race.queue.collect()

    async with race.pool.begin() as tx:
        await (cancel(tx, first) if change == "cancel" else tx.run(job_delete(first.id)))
        beside = await within(race.started_beside())
        released = await within(race.queue.complete(*beside))

    assert (sorted(tenants(beside)), len(released)) == (["a", "b"], 2)
    assert await race.started_later() == []
    assert await race.queue.limited_jobs() == []
    await race.queue.check()


@pytest.mark.slow
@pytest.mark.parametrize("limited_by", ["limit", "total"])
async def test_locked_jobs_do_not_hold_up_other_partitions(race: Race, limited_by: str) -> None:
    """All jobs of the partition that is next are locked: a client with one free worker starts a job of another."""
    await race.queue.set_limit(at_once=5, by_args=["tenant"], total=1 if limited_by == "total" else None)
    first, second, _ = await race.queue.insert(*"aab")
    await race.queue.collect()

    async with race.pool.begin() as tx:
        for job in (first, second):
            await cancel(tx, job)
        beside = await within(race.started_beside(limit=1 if limited_by == "limit" else 100))

    assert tenants(beside) == ["b"]
    await race.queue.check()


@pytest.mark.slow
async def test_a_rolled_back_cancel_leaves_the_job_waiting(race: Race) -> None:
    """After the caller's rollback the job starts."""
    await race.queue.set_limit(at_once=2, by_args=["tenant"])
    first, _ = await race.queue.insert(*"aa")
    await race.queue.collect()

    with contextlib.suppress(ZeroDivisionError):
        async with race.pool.begin() as tx:
            await cancel(tx, first)
            await race.started_beside()
            raise ZeroDivisionError

    assert await race.started_later() == ["a"]
    await race.queue.check()


@pytest.mark.slow
@pytest.mark.parametrize("commits", [True, False])
async def test_an_insert_in_an_open_transaction_holds_up_nobody(race: Race, commits: bool) -> None:
    """Every statement about its partition runs beside it; rolled back it leaves nothing, committed its job starts."""
    await race.queue.set_limit(at_once=2, total=4, by_args=["tenant"])
    await race.queue.insert(*"aa")

    with contextlib.suppress(ZeroDivisionError):
        async with race.pool.begin() as tx:
            await insert_in(tx, race, "a", "new")
            jobs = await within(race.queue.fetch())
            await within(race.queue.complete(jobs[0]))
            await within(race.queue.end(jobs[1], state=JobState.DISCARDED, finalized_at=jobs[0].created_at))
            await within(race.pool.run(limit_partition_set("limited", ["a"], weight=2)))
            await within(race.pool.run(limit_set("limited", Limit(at_once=3, total=5, by_args=["tenant"]))))
            await within(race.queue.fetch())
            if not commits:
                raise ZeroDivisionError

    assert Counter(await race.started_later()) == Counter(["a", "new"] if commits else [])
    if not commits:
        assert await race.queue.limited_jobs() == []
        assert await race.pool.fetch("SELECT FROM millhand_limit_arrival") == []
        assert list(await race.queue.partitions()) == ['["a"]']
    await race.queue.check()


# A job that waits no more.


async def _retried_while_an_admission_forgets_it(race: Race) -> None:
    await race.queue.set_limit(at_once=2, total=2, by_args=["tenant"])
    [job] = await race.queue.insert("a")
    await race.queue.collect()
    await cancel(race.pool, job)

    async with race.held(LIMIT):
        admission = await race.blocked(race.queue.admit())
        await race.pool.run(job_retry(job.id))
        await race.queue.collect()

    assert (await admission).jobs in ([], [job])


@pytest.mark.slow
async def test_a_row_of_a_job_that_is_retried_meanwhile_is_not_deleted(race: Race) -> None:
    """The admission saw the job cancelled; the retry and a collect gave the row a new version, which stays."""
    await _retried_while_an_admission_forgets_it(race)

    assert len(await race.queue.limited_jobs()) == 1
    await race.started_later()
    assert [row["state"] for row in await race.pool.fetch("SELECT state::text FROM river_job")] == ["running"]
    await race.queue.check()


@pytest.mark.slow
async def test_without_the_condition_on_the_version_the_retried_job_is_lost(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant deletes the row of a job that waits again."""
    with mutated(monkeypatch, "AND limited.xmin = chosen.version", "", times=2):
        await _retried_while_an_admission_forgets_it(race)
        await race.started_later()
        assert [row["state"] for row in await race.pool.fetch("SELECT state::text FROM river_job")] == [
            "pending"
        ]


@pytest.mark.slow
async def test_a_retry_before_the_row_is_forgotten(race: Race) -> None:
    """The admission deletes the row of a job that is available again; the next collect gives it a new one."""
    await race.queue.set_limit(at_once=2, total=2, by_args=["tenant"])
    [job] = await race.queue.insert("a")
    await race.queue.collect()
    await cancel(race.pool, job)

    async with race.held(LIMIT):
        admission = await race.blocked(race.queue.admit())
        await race.pool.run(job_retry(job.id))

    assert ((await admission).jobs, await race.started_later()) == ([], ["a"])
    await race.queue.check()


# A change of the limit, or of a partition.


@pytest.mark.slow
@pytest.mark.parametrize("order", ["admission first", "change first"])
async def test_a_limit_that_is_raised_beside_an_admission_opens_the_partition(race: Race, order: str) -> None:
    """The admission fills the partition by the old limit. The free slots of the new one are found."""
    await race.queue.set_limit(at_once=1, total=10, by_args=["tenant"])
    await race.queue.insert(*"aaa")
    await race.queue.collect()
    change = race.pool.run(limit_set("limited", Limit(at_once=3, total=10, by_args=["tenant"])))

    async with race.held(LIMIT):
        statements = [race.queue.admit(), change]
        if order == "change first":
            statements.reverse()
        tasks = [await race.blocked(statement) for statement in statements]

    answers = [await task for task in tasks]
    admission = answers[0 if order == "admission first" else 1]
    assert len(tenants(admission.jobs)) + len(await race.started_later()) == 3
    await race.queue.check()


@pytest.mark.slow
async def test_a_partition_that_is_made_while_the_limit_is_raised(race: Race) -> None:
    """The change does not see the partition, nor the admission the change. The next collect opens what that closed."""
    await race.queue.set_limit(at_once=1, total=10, by_args=["tenant"])

    async with race.held(LIMIT):
        limit = Limit(at_once=3, total=10, by_args=["tenant"])
        change = await race.blocked(race.pool.run(limit_set("limited", limit)))
        await race.queue.insert(*"aaa")
        await race.queue.collect()
        admission = await race.blocked(race.queue.admit())

    await change
    assert len((await admission).jobs) + len(await race.started_later()) == 3
    await race.queue.check()


@pytest.mark.slow
async def test_an_admission_that_is_later_than_the_collect_after_a_change(race: Race) -> None:
    """It fills the partition by the old limit, sees that this was opened since its snapshot, and does not close it."""
    await race.queue.set_limit(at_once=1, total=10, by_args=["tenant"])
    await race.queue.insert(*"aaa")
    await race.queue.collect()
    is_collected = asyncio.Event()

    async def hold() -> None:
        async with race.pool.begin() as tx:
            await tx.fetch(LIMIT)
            await is_collected.wait()

    async with race.held() as tx:
        await tx.run(limit_set("limited", Limit(at_once=3, total=10, by_args=["tenant"])))
        holder = await race.blocked(hold())
        admission = await race.blocked(race.queue.admit())
    await within(race.queue.collect())
    is_collected.set()

    await holder
    assert len((await admission).jobs) + len(await race.started_later()) == 3
    await race.queue.check()


@pytest.mark.slow
async def test_a_limit_that_is_raised_beside_a_release(race: Race) -> None:
    """The release and the change wait for the partition; in either order, the waiting jobs start."""
    await race.queue.set_limit(at_once=1, total=10, by_args=["tenant"])
    await race.queue.insert(*"aaa")
    [job] = await race.queue.fetch()

    async with race.held(partition_lock("a")):
        release = await race.blocked(race.queue.complete(job))
        change = await race.blocked(
            race.pool.run(limit_set("limited", Limit(at_once=2, total=10, by_args=["tenant"])))
        )

    await release
    await change
    assert await race.started_later() == ["a", "a"]
    await race.queue.check()


@pytest.mark.slow
async def test_a_total_that_is_set_beside_an_admission_counts_its_slots(race: Race) -> None:
    """The admission began without a total. The number of slots under the new total has those that it gave."""
    await race.queue.set_limit(at_once=5, by_args=["tenant"])
    first, *_ = await race.queue.insert(*"aaa")
    await race.queue.collect()

    async with race.held(limited_lock(first.id)):
        admission = await race.blocked(race.queue.admit())
        change = await race.blocked(
            race.pool.run(limit_set("limited", Limit(at_once=5, total=5, by_args=["tenant"])))
        )

    await change
    assert len((await admission).jobs) == 3
    await race.queue.check()


@pytest.mark.slow
async def test_a_total_that_is_set_beside_a_release_counts_what_is_left(race: Race) -> None:
    """The release began without a total, and waits for the partition in front of the change."""
    await race.queue.set_limit(at_once=5, by_args=["tenant"])
    await race.queue.insert(*"aaa")
    first, *_ = await race.queue.fetch()

    async with race.held(partition_lock("a")):
        release = await race.blocked(race.queue.complete(first))
        change = await race.blocked(
            race.pool.run(limit_set("limited", Limit(at_once=5, total=5, by_args=["tenant"])))
        )

    await release
    await change
    await race.queue.check()


@pytest.mark.slow
async def test_a_total_that_is_set_before_a_release_is_counted_again(race: Race) -> None:
    """The release began without a total, and waits for the partition behind the change. The maintainer counts again."""
    await race.queue.set_limit(at_once=5, by_args=["tenant"])
    await race.queue.insert(*"aaa")
    first, *_ = await race.queue.fetch()

    async with race.held(partition_lock("a")):
        change = await race.blocked(
            race.pool.run(limit_set("limited", Limit(at_once=5, total=5, by_args=["tenant"])))
        )
        release = await race.blocked(race.queue.complete(first))

    await release
    await change
    await LimitMaintainer(race.pool, clock=SystemClock(), limits=dict).count_totals()
    await race.queue.check()


@pytest.mark.slow
async def test_a_count_that_is_corrected_beside_a_release(race: Race) -> None:
    """The correction waits for the release, and counts what that leaves."""
    await race.queue.set_limit(at_once=5, total=5, by_args=["tenant"])
    await race.queue.insert(*"aaa")
    first, *_ = await race.queue.fetch()
    await race.pool.fetch("UPDATE millhand_limit SET num_running = 5")
    maintainer = LimitMaintainer(race.pool, clock=SystemClock(), limits=dict)

    async with race.held() as tx:
        await LimitedQueue(tx, "limited", now=None).complete(first)
        correction = await race.blocked(maintainer.count_totals())

    assert await correction == ["limited"]
    await race.queue.check()


@pytest.mark.slow
async def test_an_admission_obeys_the_partitions_own_limit_as_it_is_now(race: Race) -> None:
    """Lowered between the snapshot and the lock: the admission starts as many as the new limit lets."""
    await race.queue.set_limit(at_once=5, total=10, by_args=["tenant"])
    await race.queue.insert(*"aaa")
    await race.queue.collect()

    async with race.held(LIMIT):
        admission = await race.blocked(race.queue.admit())
        await within(race.pool.run(limit_partition_set("limited", ["a"], at_once=1)))

    assert len((await admission).jobs) == 1
    await race.queue.check()


@pytest.mark.slow
async def test_a_hold_beside_an_admission(race: Race) -> None:
    """Held between the snapshot and the lock: nothing starts."""
    await race.queue.set_limit(at_once=5, total=10, by_args=["tenant"])
    await race.queue.insert("a")
    await race.queue.collect()

    async with race.held(LIMIT):
        admission = await race.blocked(race.queue.admit())
        await within(race.pool.run(limit_partition_hold("limited", ["a"], timedelta(hours=1))))

    assert (await admission).jobs == []
    await race.queue.check()


@pytest.mark.slow
async def test_a_partitions_own_limit_that_is_raised_while_an_admission_fills_it(race: Race) -> None:
    """The change waits for the admission and opens the partition that it closed."""
    await race.queue.set_limit(at_once=1, by_args=["tenant"])
    first, *_ = await race.queue.insert(*"aaa")
    await race.queue.collect()

    async with race.held(limited_lock(first.id)):
        admission = await race.blocked(race.queue.admit())
        change = await race.blocked(race.pool.run(limit_partition_set("limited", ["a"], at_once=3)))

    await change
    assert (len((await admission).jobs), await race.started_later()) == (1, ["a", "a"])
    await race.queue.check()


@pytest.mark.slow
async def test_a_partitions_own_limit_that_is_raised_beside_a_release(race: Race) -> None:
    """Both wait for the partition; the jobs of the new slots start."""
    await race.queue.set_limit(at_once=1, by_args=["tenant"])
    await race.queue.insert(*"aaaa")
    [job] = await race.queue.fetch()

    async with race.held(partition_lock("a")):
        change = await race.blocked(race.pool.run(limit_partition_set("limited", ["a"], at_once=3)))
        release = await race.blocked(race.queue.complete(job))

    await change
    await release
    assert await race.started_later() == ["a", "a", "a"]
    await race.queue.check()


@pytest.mark.slow
async def test_a_release_beside_an_admission_of_the_last_waiting_job(race: Race) -> None:
    """A release before the admission's lock must not be undone: what comes later finds the free slot."""
    await race.queue.set_limit(at_once=1, total=5, by_args=["tenant"])
    await race.queue.insert(*"aa")
    [job] = await race.queue.fetch()
    await race.pool.fetch("UPDATE millhand_limit_partition SET is_open = true")

    async with race.held(LIMIT):
        admission = await race.blocked(race.queue.admit())
        release = await race.blocked(race.queue.complete(job))

    assert (await release, (await admission).jobs) == ([job.id], [])
    assert await race.started_later() == ["a"]
    await race.queue.check()
