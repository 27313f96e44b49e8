from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
from store_rows import HOUR, NOW, put_job

from millhand.driver.protocol import Executor
from millhand.errors import JobRunning, NotFound
from millhand.event import EventKind
from millhand.job import AttemptError, ClientId, JobId, JobRow, JobState
from millhand.sql import compile_statement
from millhand.store.job import (
    job_complete_many,
    job_count_by_state,
    job_delete,
    job_get_available,
    job_get_by_id,
    job_get_by_ids,
    job_get_cancel_requested,
    job_set_state_if_running_many,
    job_update_output,
)
from millhand.store.query import Query
from millhand.transition import StateChange, last_attempted_by

NOT_RUNNING = [state for state in JobState if state is not JobState.RUNNING]
CANCELLED = '{"cancel_attempted_at": "2026-11-25T10:43:42.165187812Z"}'


CLIENT = ClientId("client_a")
TICK = timedelta(microseconds=1)


def change(job: JobRow, state: JobState, **said: Any) -> StateChange:
    """Return a change that the attempt comes to which the row tells of, unless another one is said."""
    its = {"attempted_at": job.attempted_at, "attempted_by": last_attempted_by(job)}
    return StateChange(id=job.id, state=state, event_kind=EventKind.JOB_FAILED, **{**its, **said})


def complete(*jobs: JobRow, at: Sequence[datetime] = (), **said: Any) -> Query[list[JobId]]:
    its: dict[str, Any] = {
        "attempted_ats": [job.attempted_at or NOW for job in jobs],
        "client_id": CLIENT,
        "finalized_ats": at or [NOW] * len(jobs),
        "ids": [job.id for job in jobs],
    }
    return job_complete_many(**{**its, **said})


async def write(tx: Executor, *changes: StateChange) -> list[JobRow]:
    return await tx.run(job_set_state_if_running_many(changes, now=NOW))


async def columns(tx: Executor, *jobs: JobRow) -> list[JobRow]:
    return await tx.run(job_get_by_ids([job.id for job in jobs]))


async def test_completed_jobs_are_written_and_named(tx: Executor) -> None:
    """Running jobs are completed at their own instants, in whatever order they come, and nothing else of them changes."""
    one, two = await put_job(tx, JobState.RUNNING), await put_job(tx, JobState.RUNNING)

    written = await tx.run(complete(two, one, at=[NOW + HOUR, NOW]))

    assert sorted(written) == [one.id, two.id]
    rows = await columns(tx, one, two)
    assert [(row.state, row.finalized_at) for row in rows] == [
        (JobState.COMPLETED, NOW),
        (JobState.COMPLETED, NOW + HOUR),
    ]
    assert [(row.attempt, row.errors, row.metadata) for row in rows] == [(1, (), {})] * 2


async def test_completion_of_a_large_batch_takes_no_longer_a_job(tx: Executor) -> None:
    """However many jobs are completed at once, none is compared with all others: the plan has no loop in a loop."""
    sql = compile_statement("job_complete_many").sql
    await tx.execute_script(f"SET LOCAL plan_cache_mode = force_generic_plan; PREPARE complete AS {sql}")

    plan = await tx.fetch("EXPLAIN EXECUTE complete ('{now}', '{1}', '{now}', 'client_a')")
    await tx.execute_script("DEALLOCATE complete")

    assert not [line for row in plan for line in row.values() if "Nested Loop" in line]


@pytest.mark.parametrize("state", NOT_RUNNING)
async def test_job_that_is_not_running_is_not_completed(tx: Executor, state: JobState) -> None:
    """What somebody else has settled is left alone, and is missing from the answer."""
    job = await put_job(tx, state)

    written = await tx.run(complete(job, msgspec.structs.replace(job, id=JobId(0))))

    assert written == []
    assert await columns(tx, job) == [job]


async def test_cancelled_job_that_succeeds_is_completed(tx: Executor) -> None:
    """Success is not replaced by a cancellation that was asked for meanwhile."""
    job = await put_job(tx, JobState.RUNNING, metadata=CANCELLED)

    await tx.run(complete(job))
    [row] = await columns(tx, job)

    assert row.state is JobState.COMPLETED


@pytest.mark.parametrize("target", [JobState.AVAILABLE, JobState.RETRYABLE, JobState.SCHEDULED])
async def test_cancelled_job_is_not_tried_again(tx: Executor, target: JobState) -> None:
    """A job whose cancellation was asked for ends cancelled now, with its error, attempt and instant as they are."""
    job = await put_job(tx, JobState.RUNNING, metadata=CANCELLED)
    error = AttemptError(NOW, 1, "boom")

    [row] = await write(tx, change(job, target, attempt=0, error=error, scheduled_at=NOW + HOUR))

    assert (row.state, row.finalized_at, row.errors) == (JobState.CANCELLED, NOW, (error,))
    assert (row.attempt, row.scheduled_at) == (job.attempt, job.scheduled_at)


@pytest.mark.parametrize("target", [JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED])
async def test_cancelled_job_that_is_over_ends_as_it_ended(tx: Executor, target: JobState) -> None:
    """An attempt that was the last one keeps its own end, cancelled or not."""
    job = await put_job(tx, JobState.RUNNING, metadata=CANCELLED)

    [row] = await write(tx, change(job, target, finalized_at=NOW - timedelta(seconds=1)))

    assert (row.state, row.finalized_at) == (target, NOW - timedelta(seconds=1))


async def test_change_is_written_whole(tx: Executor) -> None:
    """State, attempt, error, instant and metadata of a change are in the row; the metadata is merged at the top."""
    job = await put_job(
        tx,
        JobState.RUNNING,
        attempt=2,
        metadata='{"a": {"x": 1}, "b": 1}',
        errors='{"{\\"error\\": \\"old\\"}"}',
    )
    error = AttemptError(NOW, 2, "boom", "trace")
    said = change(
        job,
        JobState.RETRYABLE,
        attempt=1,
        error=error,
        metadata={"a": {"y": 2}, "c": None},
        scheduled_at=NOW + HOUR,
    )

    [row] = await write(tx, said)

    assert (row.state, row.attempt, row.scheduled_at) == (JobState.RETRYABLE, 1, NOW + HOUR)
    assert row.errors[1:] == (error,)
    assert row.metadata == {"a": {"y": 2}, "b": 1, "c": None}


@pytest.mark.parametrize("state", NOT_RUNNING)
async def test_job_that_is_not_running_gets_only_the_metadata(tx: Executor, state: JobState) -> None:
    """A late report changes nothing but metadata of what is finalized, and is answered with the row as it is."""
    job = await put_job(tx, state, attempt=1)
    late = change(
        job,
        JobState.DISCARDED,
        attempt=0,
        error=AttemptError(NOW, 1, "late"),
        finalized_at=NOW,
        metadata={"output": 1},
        scheduled_at=NOW,
    )

    [row] = await write(tx, late)

    assert row.metadata == ({"output": 1} if state.is_finalized else {})
    assert (row.state, row.attempt, row.errors) == (state, 1, ())
    assert (row.finalized_at, row.scheduled_at) == (job.finalized_at, job.scheduled_at)


FORMER: dict[str, dict[str, Any]] = {
    "fetched again": {"attempted_at": NOW - HOUR - TICK},
    "fetched by another client": {"attempted_by": "client_b"},
}


@pytest.mark.parametrize("former", FORMER)
@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.COMPLETED])
async def test_attempt_whose_job_has_another_changes_nothing(
    tx: Executor, state: JobState, former: str
) -> None:
    """Neither state nor metadata; not of the attempt that runs, nor of the one that has ended."""
    its = {"attempt": 1, "attempted_at": NOW - HOUR, "attempted_by": "{client_a}"}
    job = await put_job(tx, state, **its)
    late = change(job, JobState.COMPLETED, finalized_at=NOW, metadata={"output": 1}, **FORMER[former])

    rows = await write(tx, late)
    written = await tx.run(
        complete(job, attempted_ats=[late.attempted_at], client_id=ClientId(late.attempted_by or ""))
    )

    assert (rows, written) == ([job], [])
    assert await columns(tx, job) == [job]


async def test_fetch_is_later_than_the_one_before_although_the_clock_was_set_back(tx: Executor) -> None:
    """Attempts of a job never have one instant in common; an instant that nobody can have meant is not gone by."""
    before = [NOW + HOUR, NOW, NOW - TICK, None, NOW + timedelta(days=2), "infinity"]
    jobs = [await put_job(tx, attempted_at=at) for at in before]

    fetched = await tx.run(job_get_available(queue="default", limit=10, client_id=CLIENT, now=NOW))

    at = {job.id: job.attempted_at for job in fetched}
    assert [at[job.id] for job in jobs] == [NOW + HOUR + TICK, NOW + TICK, NOW, NOW, NOW, NOW]


async def test_every_job_that_exists_is_answered_by_id(tx: Executor) -> None:
    """The answer has one row for each job that exists, written or not, by id; a deleted one is missing."""
    finalized = await put_job(tx, JobState.COMPLETED)
    running = await put_job(tx, JobState.RUNNING)
    gone = msgspec.structs.replace(running, id=JobId(0))
    changes = [change(one, JobState.COMPLETED, finalized_at=NOW) for one in (running, gone, finalized)]

    rows = await write(tx, *changes)

    assert [(row.id, row.finalized_at) for row in rows] == [
        (finalized.id, finalized.finalized_at),
        (running.id, NOW),
    ]


async def test_error_that_postgresql_cannot_store_does_no_harm(tx: Executor) -> None:
    """A NUL in one job's error keeps neither it nor the jobs beside it from being written."""
    bad, good = await put_job(tx, JobState.RUNNING), await put_job(tx, JobState.RUNNING)

    rows = await write(
        tx,
        change(
            bad,
            JobState.DISCARDED,
            error=AttemptError(NOW, 1, "a\x00b"),
            finalized_at=NOW,
            metadata={"\x00": "\x00"},
        ),
        change(good, JobState.COMPLETED, finalized_at=NOW),
    )

    assert [row.state for row in rows] == [JobState.DISCARDED, JobState.COMPLETED]
    assert (rows[0].errors[0].error, rows[0].metadata) == ("a\ufffdb", {"\ufffd": "\ufffd"})


async def test_cancel_requested_names_running_jobs_with_the_mark(tx: Executor) -> None:
    """Of the ids asked for, those are named that run and whose cancellation was asked for."""
    marked = await put_job(tx, JobState.RUNNING, metadata=CANCELLED)
    plain = await put_job(tx, JobState.RUNNING)
    over = await put_job(tx, JobState.COMPLETED, metadata=CANCELLED)
    await put_job(tx, JobState.RUNNING, metadata=CANCELLED)

    assert await tx.run(job_get_cancel_requested([over.id, plain.id, marked.id])) == [marked.id]


async def test_states_are_counted(tx: Executor) -> None:
    """Each state asked for has its number, also where it is none, and no other state is counted."""
    for state in (JobState.RUNNING, JobState.RUNNING, JobState.COMPLETED):
        await put_job(tx, state)

    some = await tx.run(job_count_by_state([JobState.RUNNING, JobState.AVAILABLE]))
    every = await tx.run(job_count_by_state())

    assert some == {JobState.RUNNING: 2, JobState.AVAILABLE: 0}
    assert every == dict.fromkeys(JobState, 0) | {JobState.RUNNING: 2, JobState.COMPLETED: 1}


@pytest.mark.parametrize("state", NOT_RUNNING)
async def test_job_that_is_not_running_is_deleted(tx: Executor, state: JobState) -> None:
    """Deleting a job gives the row that it was, and then it is gone."""
    job = await put_job(tx, state)

    assert await tx.run(job_delete(job.id)) == job
    assert await columns(tx, job) == []


async def test_running_job_is_not_deleted(tx: Executor) -> None:
    """A running job stays, and the error says why."""
    job = await put_job(tx, JobState.RUNNING)

    with pytest.raises(JobRunning):
        await tx.run(job_delete(job.id))

    assert await columns(tx, job) == [job]


@pytest.mark.parametrize("query", [job_get_by_id, job_delete, partial(job_update_output, output=1)])
async def test_job_that_is_not_there_is_not_found(tx: Executor, query: Any) -> None:
    """An id without a job is an error that names it."""
    with pytest.raises(NotFound, match=r"^job must exist, found none with id 7$"):
        await tx.run(query(JobId(7)))


async def test_jobs_are_given_by_id(tx: Executor) -> None:
    """Those that exist of the ids asked for come by id, once each."""
    one, two = await put_job(tx), await put_job(tx)

    assert await tx.run(job_get_by_ids([two.id, JobId(0), one.id, two.id])) == [one, two]
