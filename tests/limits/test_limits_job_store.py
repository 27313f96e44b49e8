"""The statements of limited queues: what waits, what is admitted, and when a slot is free again."""

from __future__ import annotations

from collections import Counter

import pytest

from limited_queue import NOW, LimitedQueue, later, tenants
from millhand.core.job import JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_cancel
from millhand.limits.job_store import limited_job_is_due, limited_job_release_ended
from millhand.limits.store import limit_partition_list


@pytest.fixture
async def queue(tx: Executor) -> LimitedQueue:
    return LimitedQueue(tx, "limited")


async def test_jobs_wait_as_pending_and_start_up_to_at_once(queue: LimitedQueue) -> None:
    """Three slots: three jobs start, by id, and the others stay pending; each that ends lets one start."""
    await queue.set_limit(at_once=3)
    jobs = await queue.insert(*"abcde")

    first = await queue.fetch()
    full = await queue.fetch()
    await queue.complete(*first[:2])
    second = await queue.fetch()

    assert [job.state for job in jobs] == [JobState.PENDING] * 5
    assert [job.id for job in first] == [job.id for job in jobs[:3]]
    assert (full, [job.id for job in second]) == ([], [job.id for job in jobs[3:]])
    assert [(job.state, job.attempt, job.attempted_by) for job in first] == [
        (JobState.RUNNING, 1, ("client_a",))
    ] * 3
    await queue.check()


async def test_each_partition_has_its_own_slots(queue: LimitedQueue) -> None:
    """by_args divides the jobs: each tenant has two slots, whatever waits for others."""
    await queue.set_limit(at_once=2, by_args=["tenant"])
    await queue.insert(*"aaaaa", *"bbb", "c")

    started = await queue.fetch()

    assert Counter(tenants(started)) == {"a": 2, "b": 2, "c": 1}
    assert list(await queue.partitions()) == ['["a"]', '["b"]', '["c"]']
    await queue.check()


async def test_keys_of_partitions(queue: LimitedQueue) -> None:
    """A key is the JSON array of kind and args; a missing field is null, and a long key is its digest."""
    await queue.set_limit(at_once=2, by_args=["tenant", "region"], by_kind=True)
    await queue.insert(7, None, "x" * 300)

    await queue.collect()

    short, long = (
        ['["push", 7, null]', '["push", null, null]'],
        [key for key in await queue.partitions() if key.startswith("sha256:")],
    )
    assert [key for key in await queue.partitions() if key not in long] == short
    assert [len(key) for key in long] == [71]


async def test_jobs_of_clients_that_do_not_know_the_limit_wait_too(queue: LimitedQueue) -> None:
    """An available job of a limited queue is never fetched as such: the next collect lets it wait."""
    await queue.set_limit(at_once=1)
    jobs = await queue.insert_unaware("a", "b")

    started = await queue.fetch()

    assert [job.id for job in started] == [jobs[0].id]
    assert [await queue.state(job) for job in jobs] == ["running", "pending"]
    await queue.check()


async def test_partitions_take_turns_by_weight(queue: LimitedQueue) -> None:
    """A hundred jobs of one tenant let another's wait for one start at most; a weight of three gives three turns."""
    await queue.set_limit(at_once=1_000, by_args=["tenant"])
    await queue.insert(*"a" * 50)
    await queue.insert(*"b" * 50, *"c" * 50)
    await queue.collect()
    await queue.executor.fetch(
        "UPDATE millhand_limit_partition SET weight = 3 WHERE partition_key = '[\"c\"]'"
    )

    started = []
    for limit in (1, 2, 7, 10, 5):
        started += tenants((await queue.admit(limit)).jobs)

    assert Counter(started) == {"a": 5, "b": 5, "c": 15}
    await queue.check()


async def test_a_total_is_shared_by_the_partitions(queue: LimitedQueue) -> None:
    """No more than `total` jobs run, whatever the partitions have left."""
    await queue.set_limit(at_once=3, by_args=["tenant"], total=4)
    await queue.insert(*"aaa", *"bbb", *"ccc")

    first = await queue.fetch()
    full = await queue.fetch()
    await queue.complete(*first[:3])
    second = await queue.fetch()

    assert (len(first), full, len(second)) == (4, [], 3)
    await queue.check()


async def test_a_rate_lets_a_burst_start_and_then_one_each_interval(queue: LimitedQueue) -> None:
    """Burst of 3, one a second: three start at once, the next after a second, and not before."""
    await queue.set_limit(rate_allowed=60, rate_seconds=60.0, rate_burst=3)
    await queue.insert(*"abcdefgh")

    await queue.collect()
    first = await queue.admit()
    queue.now = later(0.9)
    early = await queue.fetch()
    queue.now = later(1.0)
    due = await queue.fetch()
    queue.now = later(3.5)
    more = await queue.fetch()

    assert (len(first.jobs), first.opens_in_seconds) == (3, pytest.approx(1.0))
    assert (len(early), len(due), len(more)) == (0, 1, 2)
    await queue.check()


async def test_a_failed_job_releases_its_slot_until_its_next_attempt(queue: LimitedQueue) -> None:
    """The retryable job has no row, and the next job of its partition starts."""
    await queue.set_limit(at_once=1)
    await queue.insert("a", "b")
    [job] = await queue.fetch()

    await queue.end(job, state=JobState.RETRYABLE, scheduled_at=later(60))
    [other] = await queue.fetch()

    assert (other.id > job.id, await queue.state(job)) == (True, "retryable")
    assert [row["job_id"] for row in await queue.limited_jobs()] == [other.id]
    await queue.check()


async def test_a_failed_job_in_order_keeps_its_slot(queue: LimitedQueue) -> None:
    """No other job starts between two attempts of a sequence; after its last, the next does."""
    await queue.set_limit(at_once=1, in_order=True)
    await queue.insert("a", "b")
    [job] = await queue.fetch()

    await queue.end(job, state=JobState.RETRYABLE, scheduled_at=later(60))
    between = await queue.fetch()
    await queue.executor.fetch("UPDATE river_job SET state = 'running' WHERE id = $1", [job.id])
    await queue.end(job, state=JobState.DISCARDED, finalized_at=NOW)
    after = await queue.fetch()

    assert (between, tenants(after)) == ([], ["b"])
    await queue.check()


async def test_a_job_in_a_shared_queue_waits_for_its_next_attempt_as_pending(queue: LimitedQueue) -> None:
    """No Go worker can fetch it before it has a slot; the completer's row has the state of the outcome."""
    await queue.set_limit(at_once=1, is_shared=True)
    await queue.insert("a", "b")
    [job] = await queue.fetch()

    [row] = await queue.end(job, state=JobState.RETRYABLE, scheduled_at=later(60), shared_ids=[job.id])

    [limited, _] = await queue.limited_jobs()
    assert (row.state, await queue.state(job)) == (JobState.RETRYABLE, "pending")
    assert (limited["is_later"], limited["admitted_at"], limited["due_at"]) == (True, None, later(60))
    assert tenants(await queue.fetch()) == ["b"]
    await queue.check()


async def test_a_snooze_may_hold_the_partition(queue: LimitedQueue) -> None:
    """Other jobs of the tenant wait as long; other tenants do not."""
    await queue.set_limit(at_once=1, by_args=["tenant"])
    await queue.insert("a", "a", "b")
    [job, _] = await queue.fetch()

    await queue.end(job, state=JobState.SCHEDULED, scheduled_at=later(60), holds_partition=True)
    queue.now = later(59)
    held = await queue.fetch()
    queue.now = later(60)
    released = await queue.fetch()

    assert (held, tenants(released)) == ([], ["a"])
    await queue.check()


async def test_a_hold_by_a_job_in_order_stays_after_the_job_is_cancelled(queue: LimitedQueue) -> None:
    """The snoozed job keeps its slot, and the partition is held as well: the next job starts when the hold ends."""
    await queue.set_limit(at_once=1, in_order=True, by_args=["tenant"])
    await queue.insert(*"aa")
    [job] = await queue.fetch()

    await queue.end(job, state=JobState.SCHEDULED, scheduled_at=later(60), holds_partition=True)
    slots = [row["job_id"] for row in await queue.limited_jobs() if row["admitted_at"] is not None]
    await queue.executor.run(job_cancel(job.id, now=later(10)))
    await queue.executor.run(limited_job_release_ended())
    queue.now = later(59)
    held = await queue.fetch()
    queue.now = later(60)
    released = await queue.fetch()

    assert (slots, held, tenants(released)) == ([job.id], [], ["a"])
    await queue.check()


async def test_jobs_that_wait_no_more_are_forgotten(queue: LimitedQueue) -> None:
    """Cancelled and deleted jobs at the head of a partition do not keep others from starting."""
    await queue.set_limit(at_once=1)
    cancelled, deleted, third = await queue.insert("a", "b", "c")
    await queue.collect()
    await queue.executor.fetch(
        "UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE id = $1", [cancelled.id]
    )
    await queue.executor.fetch("DELETE FROM river_job WHERE id = $1", [deleted.id])

    [started] = await queue.fetch()
    await queue.complete(started)
    await queue.fetch()

    assert started.id == third.id
    assert await queue.limited_jobs() == []
    await queue.check()


async def test_a_limit_of_each_client(queue: LimitedQueue) -> None:
    """What runs here counts: of three slots of the fleet, this client has one left."""
    await queue.set_limit(at_once=3, at_once_per_client=2, by_args=["tenant"])
    await queue.insert(*"aaaa")
    await queue.collect()

    admission = await queue.admit(num_running_here={'["a"]': 1})
    other = await queue.admit()

    assert (len(admission.jobs), len(other.jobs)) == (1, 2)
    await queue.check()


async def test_a_client_without_a_kind_leaves_its_jobs_to_others(queue: LimitedQueue) -> None:
    """During a deployment old clients admit only their kinds. The partition stays open for those that know all."""
    await queue.set_limit(at_once=2, by_args=["tenant"])
    await queue.insert("a", kind="new")
    await queue.insert("a")
    await queue.collect()

    old = [job.kind for job in await queue.fetch(kinds=["push"])]
    none = await queue.fetch(kinds=["push"])
    new = [job.kind for job in await queue.fetch(kinds=["new", "push"])]

    assert (old, none, new) == (["push"], [], ["new"])
    await queue.check()


async def test_partitions_with_all_slots_of_a_client_do_not_hide_others(queue: LimitedQueue) -> None:
    """Each of twenty partitions has as many jobs here as it may. A client with free workers finds the job behind them."""
    await queue.set_limit(at_once=3, at_once_per_client=1, by_args=["tenant"])
    names = [f"{n:02}" for n in range(20)]
    await queue.insert(*names, *names)
    await queue.collect()
    first = await queue.admit(20)
    await queue.insert("z")
    await queue.collect()

    admission = await queue.admit(5, num_running_here={f'["{name}"]': 1 for name in names})

    assert (len(first.jobs), tenants(admission.jobs)) == (20, ["z"])
    await queue.check()


async def test_jobs_of_a_held_partition_are_due_when_the_hold_ends(queue: LimitedQueue) -> None:
    """A worker with --until-empty need not wait for a hold of an hour."""
    await queue.set_limit(at_once=1)
    await queue.insert("a", "b")
    before = await queue.executor.run(limited_job_is_due([queue.queue], until=later(5)))
    [job] = await queue.fetch()
    await queue.end(job, state=JobState.SCHEDULED, scheduled_at=later(60), holds_partition=True)

    due = [
        await queue.executor.run(limited_job_is_due([queue.queue], until=until))
        for until in (later(5), later(60))
    ]

    assert (before, due) == (True, [False, True])


async def test_partitions_are_listed_before_a_worker_fetches(queue: LimitedQueue) -> None:
    """Jobs that arrived while no worker runs are counted, as those of a partition that was opened."""
    await queue.set_limit(at_once=1, by_args=["tenant"])
    await queue.insert(*"aab")

    before = await queue.executor.run(limit_partition_list(queue.queue))
    await queue.collect()
    after = await queue.executor.run(limit_partition_list(queue.queue))

    assert [(one.key, one.waiting) for one in before] == [('["a"]', 2), ('["b"]', 1)]
    assert before == after
