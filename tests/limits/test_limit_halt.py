"""Limits that halt: what halts a partition, and what lets it start jobs again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from limited_queue import LimitedQueue, later, tenants
from millhand.capabilities import JOB_CHANGES
from millhand.core.errors import NotFound
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.limit import Limit
from millhand.db.driver.protocol import Executor
from millhand.dead_jobs.store import dead_job_restore
from millhand.engine.store.job import job_cancel, job_delete
from millhand.limits.job_store import (
    limit_partition_delete_idle,
    limited_job_free,
    limited_job_is_due,
    limited_job_release_ended,
    limited_job_wait_again,
)
from millhand.limits.store import (
    limit_list,
    limit_partition_hold,
    limit_partition_list,
    limit_partition_list_halted,
    limit_partition_release,
    limit_partition_resume,
    limit_partition_set,
    limit_remove,
    limit_set,
)

KEY = ["a"]
HALT = Limit(in_order=True, halt=True, by_args=["tenant"])


@pytest.fixture
async def queue(tx: Executor) -> LimitedQueue:
    queue = LimitedQueue(tx, "limited")
    await tx.run(limit_set(queue.queue, HALT))
    return queue


async def discard(queue: LimitedQueue, job: JobRow) -> None:
    """As Millhand's completer does."""
    await queue.end(job, state=JobState.DISCARDED, finalized_at=queue.now)


async def end_elsewhere(queue: LimitedQueue, job: JobRow, state: str) -> None:
    """As a Go worker or a rescuer does, and then a killed process does no more."""
    await queue.executor.fetch(
        f"UPDATE river_job SET state = '{state}', finalized_at = now() WHERE id = $1", [job.id]
    )


async def halted(queue: LimitedQueue) -> list[tuple[str, JobId | None]]:
    found = await queue.executor.run(limit_partition_list_halted(queue.queue))
    return [(one.key, one.halted_by) for one in found]


@pytest.mark.parametrize("ended_by", ["discard", "JobCancel", "discard elsewhere", "cancel elsewhere"])
async def test_job_that_gives_up_halts_its_partition(queue: LimitedQueue, ended_by: str) -> None:
    """No later job of the partition starts, also none that is inserted afterwards; other partitions go on."""
    first, _, other, _ = await queue.insert("a", "a", "b", "b")
    running, other = await queue.fetch()
    if ended_by == "discard":
        await discard(queue, running)
    elif ended_by == "JobCancel":
        await queue.end(running, state=JobState.CANCELLED, finalized_at=queue.now)
    else:
        await end_elsewhere(queue, running, "discarded" if ended_by == "discard elsewhere" else "cancelled")
        before = await queue.fetch()  # a kill between: the leader has not seen it yet
        assert before == []
        await queue.executor.run(limited_job_release_ended())
    await queue.complete(other)
    await queue.insert("a")
    started = await queue.fetch()

    assert tenants(started) == ["b"]
    assert await halted(queue) == [('["a"]', first.id)]
    assert (await queue.partitions())['["a"]']["running"] == 0
    await queue.check()


@pytest.mark.parametrize("state", ["running", "retryable", "pending"])
async def test_cancel_by_a_person_does_not_halt(queue: LimitedQueue, state: str) -> None:
    """A person who cancels a job has decided that the next one starts, whatever the job's state was."""
    await queue.insert("a", "b", "a")
    running, _ = await queue.fetch()
    if state != "running":
        await queue.end(running, state=JobState.RETRYABLE, scheduled_at=later(1))
    if state == "pending":
        await queue.executor.fetch("UPDATE river_job SET state = 'available' WHERE id = $1", [running.id])
        queue.now = later(2)
        await queue.executor.run(limited_job_wait_again(now=queue.now))
    await queue.executor.run(job_cancel(running.id, now=later(2)))
    if state == "running":
        await queue.end(running, state=JobState.CANCELLED, finalized_at=queue.now)
    await queue.executor.run(limited_job_release_ended())
    started = [*await queue.fetch(), *await queue.fetch()]

    assert (tenants(started), await halted(queue)) == (["a"], [])
    await queue.check()


async def test_job_that_is_deleted_does_not_halt(queue: LimitedQueue) -> None:
    """A person who deletes a job that waits for its next attempt has decided so too."""
    await queue.insert("a", "a")
    [running] = await queue.fetch()
    await queue.end(running, state=JobState.RETRYABLE, scheduled_at=later(60))
    await JOB_CHANGES.delete(queue.executor, running.id)
    await queue.executor.run(limited_job_release_ended())

    assert (tenants(await queue.fetch()), await halted(queue)) == (["a"], [])


@pytest.mark.parametrize(
    "limit", [Limit(in_order=True, by_args=["tenant"]), Limit(at_once=1, by_args=["tenant"])]
)
async def test_limit_without_halt_goes_on(queue: LimitedQueue, limit: Limit) -> None:
    """After a job that is discarded, the next one starts."""
    await queue.executor.run(limit_set(queue.queue, limit))
    await queue.insert("a", "a")
    await discard(queue, *await queue.fetch())

    assert (tenants(await queue.fetch()), await halted(queue)) == (["a"], [])


async def test_limit_that_an_older_release_made_unordered_does_not_halt(queue: LimitedQueue) -> None:
    """Such a release leaves `halt` in the row. The limit is read without it, and a job that is discarded halts nothing."""
    await queue.executor.fetch("UPDATE millhand_limit SET in_order = false, at_once = 1")
    [listed] = await queue.executor.run(limit_list(queue=queue.queue))
    await queue.insert("a", "a")
    await discard(queue, *await queue.fetch())

    assert (listed.fault, listed.row and listed.row.limit) == (None, Limit(at_once=1, by_args=["tenant"]))
    assert (tenants(await queue.fetch()), await halted(queue)) == (["a"], [])


async def test_resume_starts_the_next_job(queue: LimitedQueue) -> None:
    """The job that halted the partition is skipped; a second resume finds nothing halted."""
    _, second, third = await queue.insert("a", "a", "a")
    await discard(queue, *await queue.fetch())

    status = await queue.executor.run(limit_partition_resume(queue.queue, KEY))
    started = await queue.fetch()
    with pytest.raises(NotFound) as raised:
        await queue.executor.run(limit_partition_resume(queue.queue, KEY))
    await discard(queue, *started)

    assert (status.halted_by, status.halted_at, status.held_until, status.waiting) == (None, None, None, 2)
    assert [job.id for job in started] == [second.id]
    assert raised.value.subject == "halted partition of queue 'limited'"
    assert (await queue.fetch(), await halted(queue)) == ([], [('["a"]', second.id)])
    assert third.id > second.id


async def test_retry_of_the_job_ends_the_halt(queue: LimitedQueue) -> None:
    """The retried job starts before those that wait. If it completes they follow; if it is discarded again, they do not."""
    first, second = await queue.insert("a", "a")
    await discard(queue, *await queue.fetch())

    orders = []
    for state in (JobState.DISCARDED, JobState.COMPLETED):
        await JOB_CHANGES.retry(queue.executor, first.id, now=queue.now)
        waiting = await halted(queue)
        [again] = await queue.fetch()
        orders.append((waiting, again.id, await halted(queue), await queue.fetch()))
        await queue.end(again, state=state, finalized_at=queue.now)

    assert orders == [([('["a"]', first.id)], first.id, [], [])] * 2
    assert [job.id for job in await queue.fetch()] == [second.id]
    await queue.check()


@pytest.mark.parametrize("limit", [HALT, Limit(in_order=True, halt=True)], ids=["same", "other"])
async def test_retry_after_by_args_changed_ends_the_halt(queue: LimitedQueue, limit: Limit) -> None:
    """The retried job waits in the partition of the new limit, and the one that it halted goes on."""
    first, second, _ = await queue.insert("a", "a", "b")
    running, other = await queue.fetch()
    await discard(queue, running)
    await queue.complete(other)
    await queue.executor.run(limit_set(queue.queue, limit))
    before = await queue.fetch()

    await JOB_CHANGES.retry(queue.executor, first.id, now=queue.now)
    [*started] = await queue.fetch()
    await queue.complete(*started)

    assert (before, await halted(queue)) == ([], [])
    assert [job.id for job in [*started, *await queue.fetch()]] == [first.id, second.id]
    await queue.check()


@pytest.mark.parametrize("ended_elsewhere", [False, True])
@pytest.mark.parametrize("one_statement", [True, False])
async def test_retry_of_the_last_job_ends_the_halt(
    queue: LimitedQueue, ended_elsewhere: bool, one_statement: bool
) -> None:
    """Two jobs of a partition that became in order fail finally: a retry of the first starts none of them."""
    await queue.executor.run(limit_set(queue.queue, Limit(at_once=2, by_args=["tenant"])))
    first, last, _ = await queue.insert("a", "a", "a")
    running = await queue.fetch()
    await queue.executor.run(limit_set(queue.queue, HALT))
    for jobs in [running] if one_statement else [[running[1]], [running[0]]]:
        if ended_elsewhere:
            for job in jobs:
                await end_elsewhere(queue, job, "discarded")
            await queue.executor.run(limited_job_release_ended())
        else:
            await queue.end(*jobs, state=JobState.DISCARDED, finalized_at=queue.now)
    halts, started = [await halted(queue)], []
    for job in (first, last):
        await JOB_CHANGES.retry(queue.executor, job.id, now=queue.now)
        started.append([job.id for job in await queue.fetch()])
        halts.append(await halted(queue))

    assert halts == [[('["a"]', last.id)], [('["a"]', last.id)], []]
    assert started == [[], [first.id]]
    await queue.check()


async def test_halt_after_an_older_release_opened_the_partition_names_its_own_job(
    queue: LimitedQueue,
) -> None:
    """A release without halts leaves the id of the job; a later halt and a hold do not depend on it."""
    _, second, _ = await queue.insert("a", "a", "a")
    await discard(queue, *await queue.fetch())
    await queue.executor.fetch(
        "UPDATE millhand_limit_partition SET held_until = NULL, opens_at = NULL, is_open = true, halted_by = $1",
        [second.id + 1],
    )
    await discard(queue, *await queue.fetch())

    assert await halted(queue) == [('["a"]', second.id)]


@pytest.mark.parametrize("then", ["retry again", "insert"])
async def test_retry_that_an_older_release_collects_ends_the_halt_later(
    queue: LimitedQueue, then: str
) -> None:
    """Such a release lets the job wait and leaves the halt. The next retry, or the next job that arrives, ends it."""
    first, _ = await queue.insert("a", "a")
    await discard(queue, *await queue.fetch())
    [row] = await queue.executor.fetch(
        "SELECT to_jsonb(halted)::text AS halt FROM millhand_limit_partition AS halted"
    )
    await JOB_CHANGES.retry(queue.executor, first.id, now=queue.now)
    await queue.collect()
    await queue.executor.fetch(
        "UPDATE millhand_limit_partition AS part SET (is_open, held_until, opens_at, halted_by) = (SELECT is_open, "
        "held_until, opens_at, halted_by FROM jsonb_populate_record(part, $1::text::jsonb))",
        [row["halt"]],
    )
    before = (await queue.fetch(), await halted(queue))
    if then == "insert":
        await queue.insert("a")
    else:
        await JOB_CHANGES.retry(queue.executor, first.id, now=queue.now)

    assert before == ([], [('["a"]', first.id)])
    assert [job.id for job in await queue.fetch()] == [first.id]
    assert await halted(queue) == []
    await queue.check()


async def test_retry_before_the_leader_has_seen_the_end_keeps_the_slot(queue: LimitedQueue) -> None:
    """A job that Go discarded and a person retried at once starts again before the next one, and nothing is halted."""
    first, _ = await queue.insert("a", "a")
    [running] = await queue.fetch()
    await end_elsewhere(queue, running, "discarded")
    await JOB_CHANGES.retry(queue.executor, first.id, now=queue.now)
    await queue.executor.run(limited_job_release_ended())
    await queue.executor.run(limited_job_wait_again(now=queue.now))

    assert [job.id for job in await queue.fetch()] == [first.id]
    assert await halted(queue) == []


async def test_retry_of_the_dead_letter_ends_the_halt(queue: LimitedQueue) -> None:
    """A job that was deleted after it was discarded returns with its id, so it starts before those that wait."""
    first, _ = await queue.insert("a", "a")
    await discard(queue, *await queue.fetch())
    columns = (
        "id, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, attempted_by, "
        "errors, kind, metadata, queue, tags, unique_key, unique_states"
    )
    await queue.executor.fetch(
        f"INSERT INTO millhand_dead_job ({columns}) SELECT {columns} FROM river_job WHERE id = $1", [first.id]
    )
    await queue.executor.run(job_delete(first.id))
    stays = await queue.fetch()
    await queue.executor.run(dead_job_restore(first.id, now=queue.now))

    assert (stays, [job.id for job in await queue.fetch()]) == ([], [first.id])
    assert await halted(queue) == []


async def test_hold_and_its_end_leave_a_halt(queue: LimitedQueue) -> None:
    """Only a resume or a retry opens a halted partition; settings of its own and changes of the limit do not."""
    first, _ = await queue.insert("a", "a")
    await discard(queue, *await queue.fetch())
    run = queue.executor.run

    await run(limit_partition_hold(queue.queue, KEY, timedelta(seconds=1)))
    await run(limit_partition_release(queue.queue, KEY))
    await run(limit_partition_set(queue.queue, KEY, weight=2))
    await run(limit_set(queue.queue, Limit(at_once=5, by_args=["tenant"])))
    queue.now = later(100)
    await queue.insert("a")

    assert (await queue.fetch(), await halted(queue)) == ([], [('["a"]', first.id)])
    [shown] = await run(limit_partition_list(queue.queue))
    assert (shown.halted_by, shown.held_until, shown.next_start_at, shown.waiting) == (
        first.id,
        None,
        None,
        2,
    )
    assert await run(limited_job_is_due([queue.queue], until=later(10**9))) is False


async def test_hold_by_a_job_leaves_a_halt(queue: LimitedQueue) -> None:
    """A job of an earlier limit that still runs and holds the partition does not shorten the halt."""
    await queue.executor.run(limit_set(queue.queue, Limit(at_once=2, by_args=["tenant"])))
    first, _, _ = await queue.insert("a", "a", "a")
    running, beside = await queue.fetch()
    await queue.executor.run(limit_set(queue.queue, HALT))
    await discard(queue, running)
    await queue.end(beside, state=JobState.SCHEDULED, scheduled_at=later(1), holds_partition=True)
    queue.now = later(100)

    assert (await queue.fetch(), await halted(queue)) == ([], [('["a"]', first.id)])


async def test_halted_partition_is_kept(queue: LimitedQueue) -> None:
    """It is not deleted as idle, however long it waits for a person, unless its limit is removed."""
    first = (await queue.insert("a"))[0]
    await discard(queue, *await queue.fetch())
    far = later(10**8)

    await queue.executor.run(limit_partition_delete_idle(horizon=far))
    kept = await halted(queue)
    await queue.executor.run(limit_remove(queue.queue))
    await queue.executor.run(limited_job_free(queue.queue))
    await queue.executor.run(limit_partition_delete_idle(horizon=far))

    assert (kept, await queue.partitions()) == ([('["a"]', first.id)], {})


async def test_clients_without_halts_see_a_hold(queue: LimitedQueue) -> None:
    """The row is closed and held until the year 9999: that is all that the statements of an older release read."""
    await queue.insert("a", "a")
    await discard(queue, *await queue.fetch())

    row = (await queue.partitions())['["a"]']
    assert (row["is_open"], row["held_until"].year, row["opens_at"].year) == (False, 9999, 9999)
