from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from store_rows import HOUR, NOW, put_job

from millhand.core.errors import DriverError
from millhand.core.job import AttemptError, JobId, JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.store.client_end import job_rescue_stranded_many
from millhand.engine.store.job import (
    Rescue,
    ScheduledJob,
    job_cancel,
    job_delete_before,
    job_get_by_id,
    job_get_by_ids,
    job_get_schedulable,
    job_get_stuck,
    job_rescue_many,
    job_retry,
    job_schedule,
)

FOUR_STATES = "11010001"
WITH_RETRYABLE = "11110101"
# The four states that River requires, and discarded: River's scheduler can never write such a row.
WITH_DISCARDED = "11011001"
KEY = "\\x6b6b"


class Scheduling:
    """One of the two ways in which a batch finds due jobs: by a sort of all, or by ranges of the index."""

    def __init__(self, *, by_range: bool) -> None:
        self._by_range = by_range

    async def __call__(self, tx: Executor, **given: object) -> dict[JobId, bool]:
        params: dict[str, Any] = {"now": NOW, "limit": 100, **given}
        moved = await tx.run(job_schedule(by_range=self._by_range, **params))
        return {job.id: job.is_discarded for job in moved}


@pytest.fixture(params=["sorted", "by range"])
def schedule(request: pytest.FixtureRequest) -> Scheduling:
    return Scheduling(by_range=request.param == "by range")


async def states(tx: Executor, *jobs: JobRow) -> list[JobState]:
    rows = {row.id: row for row in await tx.run(job_get_by_ids([job.id for job in jobs]))}
    return [rows[job.id].state for job in jobs]


@pytest.mark.parametrize("state", list(JobState))
async def test_only_waiting_jobs_are_scheduled(tx: Executor, schedule: Scheduling, state: JobState) -> None:
    """Due scheduled and retryable jobs become available with their instant unchanged; others do not."""
    job = await put_job(tx, state)

    moved = await schedule(tx)

    waits = state in {JobState.SCHEDULED, JobState.RETRYABLE}
    assert moved == ({job.id: False} if waits else {})
    row = await tx.run(job_get_by_id(job.id))
    assert (row.state, row.scheduled_at) == (JobState.AVAILABLE if waits else state, job.scheduled_at)


async def test_job_is_scheduled_at_its_instant_and_not_before(tx: Executor, schedule: Scheduling) -> None:
    """A job at the horizon is due; a later one is not."""
    due = await put_job(tx, JobState.SCHEDULED, scheduled_at=NOW)
    await put_job(tx, JobState.SCHEDULED, scheduled_at=NOW + timedelta(microseconds=1))

    assert await schedule(tx) == {due.id: False}


async def test_scheduling_stops_at_its_limit(tx: Executor, schedule: Scheduling) -> None:
    """A pass schedules the first jobs by priority, and the next pass the rest."""
    late = await put_job(tx, JobState.SCHEDULED, priority=2)
    early = await put_job(tx, JobState.RETRYABLE, priority=1)

    assert await schedule(tx, limit=1) == {early.id: False}
    assert await schedule(tx, limit=1) == {late.id: False}


async def test_both_ways_of_scheduling_choose_the_same_jobs(tx: Executor) -> None:
    """Ranges are merged by priority, then instant, then id, over states and queues, and not before the horizon."""
    places = itertools.product((JobState.SCHEDULED, JobState.RETRYABLE), "abc", (4, 1, 2, 3), (4, -1, 0, 1))
    for state, queue, priority, seconds in places:
        at = NOW - timedelta(seconds=seconds)
        await put_job(tx, state, queue=queue, priority=priority, scheduled_at=at)
    given: dict[str, Any] = {"now": NOW, "due_after": NOW - timedelta(seconds=3)}
    expected = await tx.run(job_get_schedulable(limit=100, **given))

    batches = []
    for _ in range(0, len(expected) + 1, 7):
        batches += [await tx.run(job_schedule(limit=7, by_range=True, **given))]

    assert [sorted(job.id for job in batch) for batch in batches] == [
        sorted(expected[at : at + 7]) for at in range(0, len(expected) + 1, 7)
    ]


async def test_excluded_job_is_not_scheduled(tx: Executor, schedule: Scheduling) -> None:
    """An excluded id does not change, and does not count for the limit."""
    first = await put_job(tx, JobState.SCHEDULED)
    second = await put_job(tx, JobState.SCHEDULED)

    assert await schedule(tx, limit=1, excluded_ids=[first.id]) == {second.id: False}


async def test_job_whose_key_is_taken_is_discarded(tx: Executor, schedule: Scheduling) -> None:
    """A waiting job whose key another job holds is discarded, with the reason, at the pass's instant."""
    waiting = await put_job(
        tx, JobState.RETRYABLE, unique_key=KEY, unique_states=FOUR_STATES, metadata='{"a": 1}'
    )
    holder = await put_job(tx, JobState.RUNNING, unique_key=KEY, unique_states=FOUR_STATES)

    moved = await schedule(tx)

    row = await tx.run(job_get_by_id(waiting.id))
    assert moved == {waiting.id: True}
    assert (row.state, row.finalized_at) == (JobState.DISCARDED, NOW)
    assert row.metadata == {"a": 1, "unique_key_conflict": "scheduler_discarded"}
    assert await states(tx, holder) == [JobState.RUNNING]


async def test_first_of_two_waiting_jobs_gets_the_key(tx: Executor, schedule: Scheduling) -> None:
    """Of two waiting jobs with one key the first is made available, the other discarded."""
    second = await put_job(tx, JobState.RETRYABLE, unique_key=KEY, unique_states=FOUR_STATES, priority=2)
    first = await put_job(tx, JobState.RETRYABLE, unique_key=KEY, unique_states=FOUR_STATES, priority=1)

    assert await schedule(tx) == {first.id: False, second.id: True}


async def test_job_that_holds_the_key_continues_before_one_that_was_due_earlier(
    tx: Executor, schedule: Scheduling
) -> None:
    """Of two due jobs of one key, the first of which does not hold it in its state, exactly one becomes available."""
    failed, holder = [
        await put_job(
            tx,
            state,
            unique_key=KEY,
            unique_states=FOUR_STATES,
            scheduled_at=NOW - timedelta(seconds=seconds),
        )
        for state, seconds in ((JobState.RETRYABLE, 2), (JobState.SCHEDULED, 1))
    ]

    assert await schedule(tx) == {failed.id: True, holder.id: False}


async def test_job_that_holds_its_own_key_is_scheduled(tx: Executor, schedule: Scheduling) -> None:
    """A job does not conflict with itself."""
    job = await put_job(tx, JobState.RETRYABLE, unique_key=KEY, unique_states=WITH_RETRYABLE)

    assert await schedule(tx) == {job.id: False}


async def test_key_without_mask_never_conflicts(tx: Executor, schedule: Scheduling) -> None:
    """Rows of an old River with a key but no mask are all scheduled."""
    one = await put_job(tx, JobState.RETRYABLE, unique_key=KEY)
    two = await put_job(tx, JobState.RETRYABLE, unique_key=KEY)

    assert await schedule(tx) == {one.id: False, two.id: False}


async def test_discarded_job_does_not_keep_the_key(tx: Executor, schedule: Scheduling) -> None:
    """A mask with discarded but not retryable blocks River's scheduler; here the discarded job loses that bit."""
    waiting = await put_job(tx, JobState.RETRYABLE, unique_key=KEY, unique_states=WITH_DISCARDED)
    await put_job(tx, JobState.AVAILABLE, unique_key=KEY, unique_states=WITH_DISCARDED)
    bystander = await put_job(tx, JobState.SCHEDULED)

    moved = await schedule(tx)

    row = await tx.run(job_get_by_id(waiting.id))
    assert moved == {waiting.id: True, bystander.id: False}
    assert (row.state, row.unique_states) == (JobState.DISCARDED, int(FOUR_STATES, 2))


async def test_stuck_jobs_come_page_by_page(tx: Executor) -> None:
    """Jobs running since before the horizon come by id, page by page."""
    stuck = [await put_job(tx, JobState.RUNNING, attempted_at=NOW - HOUR) for _ in range(3)]
    await put_job(tx, JobState.RUNNING, attempted_at=NOW)
    await put_job(tx, JobState.AVAILABLE, attempted_at=NOW - HOUR)

    first = await tx.run(job_get_stuck(stuck_horizon=NOW, after_id=JobId(0), limit=2))
    second = await tx.run(job_get_stuck(stuck_horizon=NOW, after_id=first[-1].id, limit=2))

    assert (first, second) == (stuck[:2], stuck[2:])


@pytest.mark.parametrize("moved_on", ["completed", "fetched again", "cancel requested"])
async def test_job_that_changed_is_not_rescued(tx: Executor, moved_on: str) -> None:
    """A job that finished, was fetched again or is to be cancelled since the search does not change."""
    state = JobState.COMPLETED if moved_on == "completed" else JobState.RUNNING
    attempted_at = NOW if moved_on == "fetched again" else NOW - HOUR
    job = await put_job(tx, state, attempted_at=attempted_at)
    if moved_on == "cancel requested":
        job = await tx.run(job_cancel(job.id, now=NOW))
    rescue = Rescue(job.id, JobState.RETRYABLE, AttemptError(NOW, 1, "stuck"), scheduled_at=NOW)

    assert await tx.run(job_rescue_many([rescue], stuck_horizon=NOW)) == []
    assert await tx.run(job_get_by_id(job.id)) == job


async def test_job_whose_cancel_was_requested_is_cancelled_by_its_rescue(tx: Executor) -> None:
    """A rescue that read the request ends the job."""
    job = await put_job(tx, JobState.RUNNING, attempted_at=NOW - HOUR)
    await tx.run(job_cancel(job.id, now=NOW))
    rescue = Rescue(job.id, JobState.CANCELLED, AttemptError(NOW, 1, "stuck"), finalized_at=NOW)

    assert await tx.run(job_rescue_many([rescue], stuck_horizon=NOW)) == [job.id]
    assert await states(tx, job) == [JobState.CANCELLED]


async def test_rescue_keeps_metadata_that_is_no_object(tx: Executor) -> None:
    """Metadata that cannot hold a count prevents no rescue of the batch."""
    unusual = await put_job(tx, JobState.RUNNING, metadata="[1]")
    plain = await put_job(tx, JobState.RUNNING)
    rescues = [
        Rescue(job.id, JobState.DISCARDED, AttemptError(NOW, 1, "stuck"), finalized_at=NOW)
        for job in (unusual, plain)
    ]

    written = await tx.run(job_rescue_many(rescues, stuck_horizon=NOW))

    assert sorted(written) == [unusual.id, plain.id]
    [stored] = await tx.fetch("SELECT metadata::text FROM river_job WHERE id = $1", [unusual.id])
    assert stored == {"metadata": "[1]"}


def _schedule(*jobs: JobRow) -> Query[list[ScheduledJob]]:
    return job_schedule(now=NOW, limit=len(jobs))


def _schedule_by_range(*jobs: JobRow) -> Query[list[ScheduledJob]]:
    return job_schedule(now=NOW, limit=len(jobs), by_range=True)


def _rescue(*jobs: JobRow) -> Query[list[JobId]]:
    return job_rescue_many([_rescued(job) for job in jobs], stuck_horizon=NOW)


def _give_back(*jobs: JobRow) -> Query[list[JobId]]:
    return job_rescue_stranded_many(jobs, [_rescued(job) for job in jobs])


def _rescued(job: JobRow) -> Rescue:
    return Rescue(job.id, JobState.AVAILABLE, AttemptError(NOW, 1, "stuck"), scheduled_at=NOW)


@pytest.mark.parametrize(
    ("state", "sweep"),
    [
        (JobState.RETRYABLE, _schedule),
        (JobState.RETRYABLE, _schedule_by_range),
        (JobState.RUNNING, _rescue),
        (JobState.RUNNING, _give_back),
    ],
)
async def test_locked_job_delays_no_others(
    schema_driver: AsyncpgDriver, state: JobState, sweep: Callable[..., Query[list[Any]]]
) -> None:
    """A locked job waits for the next pass; the statement does not wait, and the others are written."""
    pool, search = schema_driver.pool, f"SET LOCAL search_path = {schema_driver.schema}"
    async with pool.begin() as tx:
        await tx.fetch(search)
        locked, free = [await put_job(tx, state, attempted_at=NOW - HOUR) for _ in range(2)]

    async with pool.begin() as tx:
        await tx.fetch(search)
        await tx.fetch("SELECT FROM river_job WHERE id = $1 FOR NO KEY UPDATE", [locked.id])
        swept = await pool.run(sweep(locked, free))

    assert [getattr(one, "id", one) for one in swept] == [free.id]


@pytest.mark.parametrize("state", list(JobState))
async def test_cleaner_deletes_each_state_by_its_own_horizon(tx: Executor, state: JobState) -> None:
    """A finalized job is deleted if it is older than its state's horizon; others never are."""
    job = await put_job(tx, state)
    horizons = {
        "cancelled_horizon": None, "completed_horizon": None, "discarded_horizon": None,
    }  # fmt: skip

    none = await tx.run(job_delete_before(**horizons, limit=10))
    own = (
        await tx.run(job_delete_before(**{**horizons, f"{state}_horizon": NOW}, limit=10))
        if state.is_finalized
        else 0
    )
    rest = await tx.run(
        job_delete_before(cancelled_horizon=NOW, completed_horizon=NOW, discarded_horizon=NOW, limit=10)
    )

    assert (none, own, rest) == (0, 1 if state.is_finalized else 0, 0)
    assert len(await tx.run(job_get_by_ids([job.id]))) == (0 if state.is_finalized else 1)


async def test_cleaner_keeps_what_is_at_the_horizon(tx: Executor) -> None:
    """A job finalized exactly at the horizon is kept."""
    await put_job(tx, JobState.COMPLETED, finalized_at=NOW)

    deleted = await tx.run(
        job_delete_before(cancelled_horizon=NOW, completed_horizon=NOW, discarded_horizon=NOW, limit=10)
    )

    assert deleted == 0


async def test_cleaner_stops_at_its_limit(tx: Executor) -> None:
    """A pass deletes at most `limit` jobs over all states."""
    for state in (JobState.COMPLETED, JobState.CANCELLED, JobState.DISCARDED):
        await put_job(tx, state)
        await put_job(tx, state)
    horizons = {"cancelled_horizon": NOW, "completed_horizon": NOW, "discarded_horizon": NOW}

    assert [await tx.run(job_delete_before(**horizons, limit=4)) for _ in range(3)] == [4, 2, 0]


async def test_retry_of_a_job_whose_key_is_taken_is_an_error(tx: Executor) -> None:
    """Such a retry fails with River's constraint, which clients check for."""
    lost = await put_job(tx, JobState.CANCELLED, unique_key=KEY, unique_states=FOUR_STATES)
    await put_job(tx, JobState.AVAILABLE, unique_key=KEY, unique_states=FOUR_STATES)

    with pytest.raises(DriverError) as refused:
        async with tx.begin() as savepoint:
            await savepoint.run(job_retry(lost.id))

    assert (refused.value.sqlstate, refused.value.constraint) == ("23505", "river_job_unique_idx")
    assert not refused.value.retryable


async def test_cancel_makes_metadata_an_object(tx: Executor) -> None:
    """A cancel replaces metadata that is no object by an object with the mark, which every River can read."""
    job = await put_job(tx, JobState.RUNNING, metadata="[1]")

    row = await tx.run(job_cancel(job.id, now=NOW))

    assert row.metadata == {"cancel_attempted_at": "2026-11-25T12:30:15.123456Z"}
