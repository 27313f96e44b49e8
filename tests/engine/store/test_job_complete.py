from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
from store_rows import HOUR, NOW, put_job

from millhand.core.errors import JobRunning, NotFound
from millhand.core.event import EventKind
from millhand.core.job import AttemptError, ClientId, JobId, JobRow, JobState
from millhand.core.transition import StateChange, last_attempted_by
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.db.sql import compile_statement
from millhand.engine.store.job import (
    job_complete_many,
    job_count_by_state,
    job_delete,
    job_delete_completed_many,
    job_get_available,
    job_get_by_id,
    job_get_by_ids,
    job_get_cancel_requested,
    job_lock,
    job_set_state_if_running_many,
    job_update_output,
)

NOT_RUNNING = [state for state in JobState if state is not JobState.RUNNING]
CANCELLED = '{"cancel_attempted_at": "2026-11-25T10:43:42.165187812Z"}'


CLIENT = ClientId("client_a")
TICK = timedelta(microseconds=1)


def change(job: JobRow, state: JobState, **given: Any) -> StateChange:
    """Return the change of an attempt of the row, completed unless other fields are given."""
    defaults = {"attempted_at": job.attempted_at, "attempted_by": last_attempted_by(job)}
    return StateChange(id=job.id, state=state, event_kind=EventKind.JOB_FAILED, **{**defaults, **given})


def complete(*jobs: JobRow, at: Sequence[datetime] = (), **given: Any) -> Query[list[JobId]]:
    defaults: dict[str, Any] = {
        "attempted_ats": [job.attempted_at or NOW for job in jobs],
        "client_id": CLIENT,
        "finalized_ats": at or [NOW] * len(jobs),
        "ids": [job.id for job in jobs],
    }
    return job_complete_many(**{**defaults, **given})


async def write(tx: Executor, *changes: StateChange) -> list[JobRow]:
    return await tx.run(job_set_state_if_running_many(changes, now=NOW))


async def columns(tx: Executor, *jobs: JobRow) -> list[JobRow]:
    return await tx.run(job_get_by_ids([job.id for job in jobs]))


async def test_completed_jobs_are_written_and_returned(tx: Executor) -> None:
    """Running jobs are completed at their own instants, in any order, and no other column changes."""
    one, two = await put_job(tx, JobState.RUNNING), await put_job(tx, JobState.RUNNING)

    written = await tx.run(complete(two, one, at=[NOW + HOUR, NOW]))

    assert sorted(written) == [one.id, two.id]
    rows = await columns(tx, one, two)
    assert [(row.state, row.finalized_at) for row in rows] == [
        (JobState.COMPLETED, NOW),
        (JobState.COMPLETED, NOW + HOUR),
    ]
    assert [(row.attempt, row.errors, row.metadata) for row in rows] == [(1, (), {})] * 2


async def test_completion_of_a_large_batch_has_no_nested_loop(tx: Executor) -> None:
    """The plan for a large batch compares no job with all others."""
    sql, names = compile_statement("job_complete_many")
    await tx.execute_script(f"SET LOCAL plan_cache_mode = force_generic_plan; PREPARE complete AS {sql}")
    values = {"attempted_ats": "{now}", "client_id": "client_a", "first_end": "now"}

    given = ", ".join(f"'{values.get(name, '{1}')}'" for name in names)
    plan = await tx.fetch(f"EXPLAIN EXECUTE complete ({given})")
    await tx.execute_script("DEALLOCATE complete")

    assert not [line for row in plan for line in row.values() if "Nested Loop" in line]


@pytest.mark.parametrize("state", NOT_RUNNING)
async def test_job_that_is_not_running_is_not_completed(tx: Executor, state: JobState) -> None:
    """A job that another statement finalized does not change, and is missing from the result."""
    job = await put_job(tx, state)

    written = await tx.run(complete(job, msgspec.structs.replace(job, id=JobId(0))))

    assert written == []
    assert await columns(tx, job) == [job]


@pytest.mark.parametrize(
    ("state", "columns_given", "is_deleted"),
    [
        (JobState.RUNNING, {}, True),
        (JobState.RUNNING, {"attempted_by": "{client_b,client_a}"}, True),
        (JobState.RUNNING, {"metadata": CANCELLED}, True),
        (JobState.RUNNING, {"attempted_by": "{client_a,client_b}"}, False),
        (JobState.RUNNING, {"attempted_at": NOW + TICK}, False),
        (JobState.RUNNING, {"metadata": '{"output": null}'}, False),
        *((state, {}, False) for state in NOT_RUNNING),
    ],
)
async def test_only_a_running_job_of_this_attempt_is_deleted(
    tx: Executor, state: JobState, columns_given: dict[str, Any], is_deleted: bool
) -> None:
    """The fences of a completion hold for a deletion too; an output that was recorded meanwhile keeps the row."""
    given = {"attempted_at": NOW, "attempted_by": "{client_a}", **columns_given}
    job, other = await put_job(tx, state, **given), await put_job(tx, JobState.AVAILABLE)

    ids = [job.id, JobId(0)]
    deleted = await tx.run(job_delete_completed_many(client_id=CLIENT, ids=ids, attempted_ats=[NOW, NOW]))

    assert deleted == [job.id] * is_deleted
    assert await columns(tx, job, other) == [job] * (not is_deleted) + [other]


async def test_cancelled_job_that_succeeds_is_completed(tx: Executor) -> None:
    """A cancel request does not replace success."""
    job = await put_job(tx, JobState.RUNNING, metadata=CANCELLED)

    await tx.run(complete(job))
    [row] = await columns(tx, job)

    assert row.state is JobState.COMPLETED


@pytest.mark.parametrize("target", [JobState.AVAILABLE, JobState.RETRYABLE, JobState.SCHEDULED])
async def test_cancelled_job_is_not_retried(tx: Executor, target: JobState) -> None:
    """A job with a cancel request is cancelled now, with its error; attempt and instant do not change."""
    job = await put_job(tx, JobState.RUNNING, metadata=CANCELLED)
    error = AttemptError(NOW, 1, "boom")

    [row] = await write(tx, change(job, target, attempt=0, error=error, scheduled_at=NOW + HOUR))

    assert (row.state, row.finalized_at, row.errors) == (JobState.CANCELLED, NOW, (error,))
    assert (row.attempt, row.scheduled_at) == (job.attempt, job.scheduled_at)


@pytest.mark.parametrize("target", [JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED])
async def test_cancelled_job_keeps_its_final_outcome(tx: Executor, target: JobState) -> None:
    """A last attempt keeps its outcome, cancelled or not."""
    job = await put_job(tx, JobState.RUNNING, metadata=CANCELLED)

    [row] = await write(tx, change(job, target, finalized_at=NOW - timedelta(seconds=1)))

    assert (row.state, row.finalized_at) == (target, NOW - timedelta(seconds=1))


async def test_change_is_written_whole(tx: Executor) -> None:
    """State, attempt, error, instant and metadata of a change are written; metadata is merged at the top level."""
    job = await put_job(
        tx,
        JobState.RUNNING,
        attempt=2,
        metadata='{"a": {"x": 1}, "b": 1}',
        errors='{"{\\"error\\": \\"old\\"}"}',
    )
    error = AttemptError(NOW, 2, "boom", "trace")
    given = change(
        job,
        JobState.RETRYABLE,
        attempt=1,
        error=error,
        metadata={"a": {"y": 2}, "c": None},
        scheduled_at=NOW + HOUR,
    )

    [row] = await write(tx, given)

    assert (row.state, row.attempt, row.scheduled_at) == (JobState.RETRYABLE, 1, NOW + HOUR)
    assert row.errors[1:] == (error,)
    assert row.metadata == {"a": {"y": 2}, "b": 1, "c": None}


@pytest.mark.parametrize("state", NOT_RUNNING)
async def test_job_that_is_not_running_gets_only_the_metadata(tx: Executor, state: JobState) -> None:
    """A late change merges only metadata into a finalized job, and returns the row."""
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
async def test_attempt_that_lost_its_job_changes_nothing(tx: Executor, state: JobState, former: str) -> None:
    """Neither state nor metadata changes if the job had a later attempt."""
    defaults = {"attempt": 1, "attempted_at": NOW - HOUR, "attempted_by": "{client_a}"}
    job = await put_job(tx, state, **defaults)
    late = change(job, JobState.COMPLETED, finalized_at=NOW, metadata={"output": 1}, **FORMER[former])

    rows = await write(tx, late)
    written = await tx.run(
        complete(job, attempted_ats=[late.attempted_at], client_id=ClientId(late.attempted_by or ""))
    )

    assert (rows, written) == ([job], [])
    assert await columns(tx, job) == [job]


async def test_fetch_instants_increase_although_the_clock_was_set_back(tx: Executor) -> None:
    """No two attempts of a job have the same instant; a far future instant is ignored."""
    before = [NOW + HOUR, NOW, NOW - TICK, None, NOW + timedelta(days=2), "infinity"]
    jobs = [await put_job(tx, attempted_at=at) for at in before]

    fetched = await tx.run(job_get_available(queue="default", limit=10, client_id=CLIENT, now=NOW))

    at = {job.id: job.attempted_at for job in fetched}
    assert [at[job.id] for job in jobs] == [NOW + HOUR + TICK, NOW + TICK, NOW, NOW, NOW, NOW]


async def test_every_existing_job_is_returned_by_id(tx: Executor) -> None:
    """The result has one row for each existing job, changed or not, by id."""
    finalized = await put_job(tx, JobState.COMPLETED)
    running = await put_job(tx, JobState.RUNNING)
    gone = msgspec.structs.replace(running, id=JobId(0))
    changes = [change(one, JobState.COMPLETED, finalized_at=NOW) for one in (running, gone, finalized)]

    rows = await write(tx, *changes)

    assert [(row.id, row.finalized_at) for row in rows] == [
        (finalized.id, finalized.finalized_at),
        (running.id, NOW),
    ]


async def test_error_that_postgresql_cannot_store_is_sanitized(tx: Executor) -> None:
    """A NUL in one job's error prevents no job of the batch from being written."""
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


async def test_cancel_requested_returns_running_jobs_with_the_mark(tx: Executor) -> None:
    """Only running jobs with a cancel request are returned."""
    marked = await put_job(tx, JobState.RUNNING, metadata=CANCELLED)
    plain = await put_job(tx, JobState.RUNNING)
    over = await put_job(tx, JobState.COMPLETED, metadata=CANCELLED)
    await put_job(tx, JobState.RUNNING, metadata=CANCELLED)

    assert await tx.run(job_get_cancel_requested([over.id, plain.id, marked.id])) == [marked.id]


async def test_states_are_counted(tx: Executor) -> None:
    """Each given state has its count, 0 included, and no other state is counted."""
    for state in (JobState.RUNNING, JobState.RUNNING, JobState.COMPLETED):
        await put_job(tx, state)

    some = await tx.run(job_count_by_state([JobState.RUNNING, JobState.AVAILABLE]))
    every = await tx.run(job_count_by_state())

    assert some == {JobState.RUNNING: 2, JobState.AVAILABLE: 0}
    assert every == dict.fromkeys(JobState, 0) | {JobState.RUNNING: 2, JobState.COMPLETED: 1}


@pytest.mark.parametrize("state", NOT_RUNNING)
async def test_job_that_is_not_running_is_deleted(tx: Executor, state: JobState) -> None:
    """A delete returns the row and removes it."""
    job = await put_job(tx, state)

    assert await tx.run(job_delete(job.id)) == job
    assert await columns(tx, job) == []


async def test_running_job_is_not_deleted(tx: Executor) -> None:
    """A running job stays, and the error gives the reason."""
    job = await put_job(tx, JobState.RUNNING)

    with pytest.raises(JobRunning):
        await tx.run(job_delete(job.id))

    assert await columns(tx, job) == [job]


@pytest.mark.parametrize("query", [job_get_by_id, job_lock, job_delete, partial(job_update_output, output=1)])
async def test_missing_job_is_not_found(tx: Executor, query: Any) -> None:
    """An id without a job is an error that contains it."""
    with pytest.raises(NotFound, match=r"^job must exist, found none with id 7$"):
        await tx.run(query(JobId(7)))


async def test_jobs_are_returned_by_id(tx: Executor) -> None:
    """The existing jobs of the given ids are returned once each, by id."""
    one, two = await put_job(tx), await put_job(tx)

    assert await tx.run(job_get_by_ids([two.id, JobId(0), one.id, two.id])) == [one, two]
