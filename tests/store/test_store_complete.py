from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from store_rows import HOUR, NOW, put_job

from millhand.driver.protocol import Executor
from millhand.errors import JobRunning, NotFound
from millhand.event import EventKind
from millhand.job import AttemptError, JobId, JobRow, JobState
from millhand.sql import compile_statement
from millhand.store.job import (
    job_complete_many,
    job_count_by_state,
    job_delete,
    job_get_by_id,
    job_get_by_ids,
    job_get_cancel_requested,
    job_set_state_if_running_many,
    job_update_output,
)
from millhand.transition import StateChange

NOT_RUNNING = [state for state in JobState if state is not JobState.RUNNING]
CANCELLED = '{"cancel_attempted_at": "2026-11-25T10:43:42.165187812Z"}'


def change(id: JobId, state: JobState, **said: Any) -> StateChange:
    return StateChange(id=id, state=state, event_kind=EventKind.JOB_FAILED, **said)


async def write(tx: Executor, *changes: StateChange) -> list[JobRow]:
    return await tx.run(job_set_state_if_running_many(changes, now=NOW))


async def columns(tx: Executor, *jobs: JobRow) -> list[JobRow]:
    return await tx.run(job_get_by_ids([job.id for job in jobs]))


async def test_completed_jobs_are_written_and_named(tx: Executor) -> None:
    """Running jobs are completed at their own instants, in whatever order they come, and nothing else of them changes."""
    one, two = await put_job(tx, JobState.RUNNING), await put_job(tx, JobState.RUNNING)

    written = await tx.run(job_complete_many(ids=[two.id, one.id], finalized_ats=[NOW + HOUR, NOW]))

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

    plan = await tx.fetch("EXPLAIN EXECUTE complete ('{now}', '{1}')")
    await tx.execute_script("DEALLOCATE complete")

    assert not [line for row in plan for line in row.values() if "Nested Loop" in line]


@pytest.mark.parametrize("state", NOT_RUNNING)
async def test_job_that_is_not_running_is_not_completed(tx: Executor, state: JobState) -> None:
    """What somebody else has settled is left alone, and is missing from the answer."""
    job = await put_job(tx, state)

    written = await tx.run(job_complete_many(ids=[job.id, JobId(0)], finalized_ats=[NOW, NOW]))

    assert written == []
    assert await columns(tx, job) == [job]


async def test_cancelled_job_that_succeeds_is_completed(tx: Executor) -> None:
    """Success is not replaced by a cancellation that was asked for meanwhile."""
    job = await put_job(tx, JobState.RUNNING, metadata=CANCELLED)

    await tx.run(job_complete_many(ids=[job.id], finalized_ats=[NOW]))
    [row] = await columns(tx, job)

    assert row.state is JobState.COMPLETED


@pytest.mark.parametrize("target", [JobState.AVAILABLE, JobState.RETRYABLE, JobState.SCHEDULED])
async def test_cancelled_job_is_not_tried_again(tx: Executor, target: JobState) -> None:
    """A job whose cancellation was asked for ends cancelled now, with its error, attempt and instant as they are."""
    job = await put_job(tx, JobState.RUNNING, metadata=CANCELLED)
    error = AttemptError(NOW, 1, "boom")

    [row] = await write(tx, change(job.id, target, attempt=0, error=error, scheduled_at=NOW + HOUR))

    assert (row.state, row.finalized_at, row.errors) == (JobState.CANCELLED, NOW, (error,))
    assert (row.attempt, row.scheduled_at) == (job.attempt, job.scheduled_at)


@pytest.mark.parametrize("target", [JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED])
async def test_cancelled_job_that_is_over_ends_as_it_ended(tx: Executor, target: JobState) -> None:
    """An attempt that was the last one keeps its own end, cancelled or not."""
    job = await put_job(tx, JobState.RUNNING, metadata=CANCELLED)

    [row] = await write(tx, change(job.id, target, finalized_at=NOW - timedelta(seconds=1)))

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
        job.id,
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
    """A late report changes nothing but metadata, and is answered with the row as it is."""
    job = await put_job(tx, state, attempt=1)
    late = change(
        job.id,
        JobState.DISCARDED,
        attempt=0,
        error=AttemptError(NOW, 1, "late"),
        finalized_at=NOW,
        metadata={"output": 1},
        scheduled_at=NOW,
    )

    [row] = await write(tx, late)

    assert row.metadata == {"output": 1}
    assert (row.state, row.attempt, row.errors) == (state, 1, ())
    assert (row.finalized_at, row.scheduled_at) == (job.finalized_at, job.scheduled_at)


async def test_every_job_that_exists_is_answered_by_id(tx: Executor) -> None:
    """The answer has one row for each job that exists, written or not, by id; a deleted one is missing."""
    finalized = await put_job(tx, JobState.COMPLETED)
    running = await put_job(tx, JobState.RUNNING)
    changes = [
        change(one, JobState.COMPLETED, finalized_at=NOW) for one in (running.id, JobId(0), finalized.id)
    ]

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
            bad.id,
            JobState.DISCARDED,
            error=AttemptError(NOW, 1, "a\x00b"),
            finalized_at=NOW,
            metadata={"\x00": "\x00"},
        ),
        change(good.id, JobState.COMPLETED, finalized_at=NOW),
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
