"""Retry and snooze of a job that waits for a slot, or in a queue that Go workers share, for its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from limited_queue import LimitedQueue
from millhand.capabilities import JOB_CHANGES
from millhand.core.clock import SystemClock
from millhand.core.errors import JobNotWaiting
from millhand.core.job import JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.control import JobControl
from millhand.limits.job_store import limited_job_begin_to_wait, limited_job_park

HOUR = timedelta(hours=1)


@pytest.fixture
def jobs(limited_driver: AsyncpgDriver) -> JobControl:
    return JobControl(limited_driver, SystemClock(), changes=JOB_CHANGES)


async def full(shared_queue: LimitedQueue, **columns: object) -> tuple[JobRow, list[JobRow]]:
    """Return a job that has the only slot, and two that wait."""
    await shared_queue.set_limit(at_once=1, **columns)
    first, *waiting = await shared_queue.insert(*"aaa")
    [running] = await shared_queue.fetch()
    assert running.id == first.id
    return running, waiting


@pytest.mark.slow
async def test_a_waiting_job_keeps_its_place_when_it_is_retried(
    shared_queue: LimitedQueue, jobs: JobControl
) -> None:
    """A retry of a job that waits for a slot changes nothing, so no Go worker can take it, and no later job overtakes it."""
    running, [second, third] = await full(shared_queue)

    retried = await jobs.retry(second.id)
    await shared_queue.complete(running)
    [started] = await shared_queue.fetch()

    assert (retried.state, retried.scheduled_at) == (JobState.PENDING, second.scheduled_at)
    assert started.id == second.id
    assert await shared_queue.state(third) == "pending"
    await shared_queue.check()


@pytest.mark.slow
async def test_a_waiting_job_is_scheduled_when_it_is_snoozed(
    shared_queue: LimitedQueue, jobs: JobControl
) -> None:
    """It loses its place, so the next job starts in its stead, and it waits again once it is due."""
    running, [second, third] = await full(shared_queue)
    until = datetime.now(UTC) + HOUR

    snoozed = await jobs.snooze(second.id, until)
    await shared_queue.complete(running)
    [started] = await shared_queue.fetch()
    await jobs.retry(second.id)
    await shared_queue.complete(started)
    [last] = await shared_queue.fetch()

    assert (snoozed.state, snoozed.scheduled_at) == (JobState.SCHEDULED, until)
    assert (started.id, last.id) == (third.id, second.id)
    await shared_queue.check()


async def test_a_waiting_job_of_a_shared_queue_stays_pending(
    shared_queue: LimitedQueue, jobs: JobControl
) -> None:
    """Snoozed, it waits for its time as pending, and no Go worker can take it. Retried, it waits for a slot at once."""
    running, [second, third] = await full(shared_queue, is_shared=True)

    snoozed = await jobs.snooze(second.id, datetime.now(UTC) + HOUR)
    await shared_queue.complete(running)
    [started] = await shared_queue.fetch()
    rows = {row["job_id"]: row["is_later"] for row in await shared_queue.limited_jobs()}
    retried = await jobs.retry(second.id)
    await shared_queue.complete(started)
    [last] = await shared_queue.fetch()

    assert (snoozed.state, retried.state) == (JobState.PENDING, JobState.PENDING)
    assert rows == {second.id: True, third.id: False}
    assert (started.id, last.id) == (third.id, second.id)
    await shared_queue.check()


async def test_a_job_of_a_shared_queue_that_waits_for_its_time_can_be_snoozed_again(
    shared_queue: LimitedQueue, jobs: JobControl
) -> None:
    """Its time is the new one, and before that it does not begin to wait for a slot."""
    await shared_queue.set_limit(at_once=1, is_shared=True)
    [job] = await shared_queue.insert("a", state=JobState.SCHEDULED, scheduled_at=datetime.now(UTC) + HOUR)
    await shared_queue.executor.run(limited_job_park())

    await jobs.snooze(job.id, datetime.now(UTC) + 3 * HOUR)
    num_early = await shared_queue.executor.run(limited_job_begin_to_wait(now=datetime.now(UTC) + 2 * HOUR))
    num_due = await shared_queue.executor.run(limited_job_begin_to_wait(now=datetime.now(UTC) + 4 * HOUR))

    assert (num_early, num_due) == (0, 1)


async def test_a_pending_job_without_a_place_is_changed_as_before(
    shared_queue: LimitedQueue, jobs: JobControl
) -> None:
    """A job that waits for another program becomes available by a retry, and cannot be snoozed."""
    [job] = await shared_queue.insert("a", state=JobState.PENDING)

    with pytest.raises(JobNotWaiting, match=f"or waiting for a slot to be snoozed, got job {job.id} pending"):
        await jobs.snooze(job.id, datetime.now(UTC) + HOUR)
    retried = await jobs.retry(job.id)

    assert retried.state is JobState.AVAILABLE


@pytest.mark.slow
async def test_a_cancelled_job_loses_its_place(shared_queue: LimitedQueue, jobs: JobControl) -> None:
    """A job that waits can be cancelled and deleted as any other, and the next one starts."""
    running, [second, third] = await full(shared_queue)

    await jobs.cancel(second.id)
    await shared_queue.complete(running)
    started = [*await shared_queue.fetch(), *await shared_queue.fetch()]

    assert [job.id for job in started] == [third.id]
    await shared_queue.check()
