"""Commands for jobs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest

from factory import NOW, golden, insert_job
from millhand.capabilities import JOB_CHANGES
from millhand.core.errors import InvalidWhere, JobNotWaiting, JobRunning, NotFound, UniqueConflict
from millhand.core.job import FINALIZED_STATES, OUTPUT_BYTES_MAX, JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.control import JobControl
from millhand.engine.store.job_list import JobFilters
from millhand.engine.store.where import Where
from millhand.testing import ManualClock

OTHERS = [JobState.AVAILABLE, JobState.PENDING, JobState.RETRYABLE, JobState.SCHEDULED]
KEY = bytes(32)
ALL_STATES_MASK = 0xFF


@dataclass(frozen=True)
class ControlInTransaction:
    """A control in a transaction of the test."""

    control: JobControl
    tx: Executor
    connection: asyncpg.Connection

    async def insert(self, state: JobState = JobState.AVAILABLE, **columns: object) -> JobRow:
        return await insert_job(self.tx, state, **columns)


@pytest.fixture
def desk(driver: AsyncpgDriver, tx: Executor, connection: asyncpg.Connection) -> ControlInTransaction:
    return ControlInTransaction(JobControl(driver, ManualClock(), changes=JOB_CHANGES), tx, connection)


async def test_get_returns_the_row(desk: ControlInTransaction) -> None:
    """A job is found by its id, in the caller's transaction."""
    job = await desk.insert(metadata='{"a": 1}', tags=["one", "two"])

    got = await desk.control.get(job.id, tx=desk.connection)

    assert got == job


@pytest.mark.parametrize("command", ["get", "cancel", "retry", "delete"])
async def test_command_raises_not_found_when_there_is_no_such_job(
    desk: ControlInTransaction, command: str
) -> None:
    """Every command names the job that it did not find."""
    with pytest.raises(NotFound) as raised:
        await getattr(desk.control, command)(77, tx=desk.connection)

    assert str(raised.value) == "job must exist, found none with id 77"


async def test_update_output_raises_not_found_when_there_is_no_such_job(desk: ControlInTransaction) -> None:
    """Output for a missing job raises."""
    with pytest.raises(NotFound):
        await desk.control.update_output(77, 1, tx=desk.connection)


@pytest.mark.parametrize("state", OTHERS)
async def test_cancel_ends_a_job_that_waits(desk: ControlInTransaction, state: JobState) -> None:
    """A waiting job is cancelled at once, and keeps the mark in its metadata, as in River."""
    job = await desk.insert(state, metadata='{"a": 1}')

    cancelled = await desk.control.cancel(job.id, tx=desk.connection)

    recorded = story(f"cancelled remotely while {state}")["cancelled"]
    assert (cancelled.state, set(cancelled.metadata)) == (recorded["state"], {"a", "cancel_attempted_at"})
    assert cancelled.finalized_at == NOW
    assert cancelled.metadata["cancel_attempted_at"] == "2024-05-01T10:34:56.789000Z"


async def test_cancel_asks_a_running_job_to_end(desk: ControlInTransaction) -> None:
    """A running job stays running and is marked."""
    job = await desk.insert(JobState.RUNNING)

    asked = await desk.control.cancel(job.id, tx=desk.connection)

    assert (asked.state, asked.finalized_at) == (JobState.RUNNING, None)
    assert "cancel_attempted_at" in asked.metadata


@pytest.mark.parametrize("state", sorted(FINALIZED_STATES))
async def test_cancel_leaves_a_finalized_job(desk: ControlInTransaction, state: JobState) -> None:
    """A finalized job is returned as it is, without a mark."""
    job = await desk.insert(state)

    cancelled = await desk.control.cancel(job.id, tx=desk.connection)

    assert cancelled == job


@pytest.mark.parametrize("state", ["completed", "discarded", "pending", "retryable", "scheduled"])
async def test_retry_makes_a_job_available_with_one_attempt_more(
    desk: ControlInTransaction, state: str
) -> None:
    """A job without attempts left gets one more, and its other columns are as River leaves them."""
    job = await desk.insert(JobState(state), attempt=3, max_attempts=3)

    retried = await desk.control.retry(job.id, tx=desk.connection)

    recorded = story(f"retried while {state}")["retried"]
    assert retried.state == recorded["state"]
    assert (retried.attempt, retried.max_attempts) == (
        int(recorded["attempt"]),
        int(recorded["max_attempts"]),
    )
    assert retried.finalized_at is None
    assert retried.scheduled_at > NOW


async def test_retry_removes_the_mark_of_a_cancellation(desk: ControlInTransaction) -> None:
    """A job that is retried after its cancellation runs and fails like any other."""
    job = await desk.insert(
        JobState.CANCELLED, metadata='{"a": 1, "cancel_attempted_at": "2024-05-01T00:00:00Z"}'
    )

    retried = await desk.control.retry(job.id, tx=desk.connection)

    assert (retried.state, retried.metadata) == (JobState.AVAILABLE, {"a": 1})


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.AVAILABLE])
async def test_retry_leaves_a_running_or_due_job(desk: ControlInTransaction, state: JobState) -> None:
    """A job that runs, or is available and due, stays as it is."""
    job = await desk.insert(state, attempt=25)

    retried = await desk.control.retry(job.id, tx=desk.connection)

    assert retried == job


@pytest.mark.parametrize(
    ("state", "after"),
    [
        (JobState.AVAILABLE, JobState.SCHEDULED),
        (JobState.SCHEDULED, JobState.SCHEDULED),
        (JobState.RETRYABLE, JobState.RETRYABLE),
    ],
)
async def test_snooze_lets_a_waiting_job_wait(
    desk: ControlInTransaction, state: JobState, after: JobState
) -> None:
    """A waiting job waits until the instant, and keeps its number of attempts."""
    job = await desk.insert(state, attempt=2)
    until = ManualClock().now() + timedelta(hours=1)

    snoozed = await desk.control.snooze(job.id, until, tx=desk.connection)

    assert (snoozed.state, snoozed.scheduled_at, snoozed.attempt) == (after, until, 2)
    assert await desk.control.get(job.id, tx=desk.connection) == snoozed


@pytest.mark.parametrize(
    "state", [JobState.RUNNING, JobState.PENDING, JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED]
)
async def test_snooze_of_a_job_that_does_not_wait_is_an_error(
    desk: ControlInTransaction, state: JobState
) -> None:
    """A job that runs, has ended or waits for code stays as it is, and the error names its state."""
    job = await desk.insert(state)

    with pytest.raises(JobNotWaiting) as raised:
        await desk.control.snooze(job.id, ManualClock().now() + timedelta(hours=1), tx=desk.connection)

    assert str(raised.value) == (
        f"job must be available, scheduled, retryable or waiting for a slot to be snoozed, got job {job.id} {state}"
    )
    assert await desk.control.get(job.id, tx=desk.connection) == job


async def test_snooze_until_the_past_is_an_error(desk: ControlInTransaction) -> None:
    """An instant that has passed is refused: `retry` makes a job due at once."""
    with pytest.raises(ValueError, match="until must be an aware instant in the future, got "):
        await desk.control.snooze(1, ManualClock().now(), tx=desk.connection)


async def test_retry_raises_unique_conflict_when_the_key_is_taken(desk: ControlInTransaction) -> None:
    """The error names the job and the constraint."""
    await desk.insert(unique_key=KEY, unique_states=0xF5)
    job = await desk.insert(JobState.DISCARDED, unique_key=KEY, unique_states=0xF5)

    with pytest.raises(UniqueConflict) as raised:
        await desk.control.retry(job.id, tx=desk.connection)

    assert (raised.value.id, raised.value.constraint) == (job.id, "river_job_unique_idx")


async def test_delete_returns_the_last_row(desk: ControlInTransaction) -> None:
    """The deleted job's row is returned and no longer found."""
    job = await desk.insert(JobState.COMPLETED)

    deleted = await desk.control.delete(job.id, tx=desk.connection)

    assert deleted == job
    with pytest.raises(NotFound):
        await desk.control.get(job.id, tx=desk.connection)


async def test_delete_raises_job_running_for_a_running_job(desk: ControlInTransaction) -> None:
    """A running job is not deleted."""
    job = await desk.insert(JobState.RUNNING)

    with pytest.raises(JobRunning) as raised:
        await desk.control.delete(job.id, tx=desk.connection)

    assert str(raised.value) == (
        f"job must not be running to be deleted, got job {job.id} running; cancel it first"
    )
    assert await desk.control.get(job.id, tx=desk.connection) == job


async def test_delete_many_deletes_what_passes_all_filters_but_running_jobs(
    desk: ControlInTransaction,
) -> None:
    """Jobs that match every filter are deleted, except running ones."""
    meant = [await desk.insert(JobState.COMPLETED, kind="sort", queue="a") for _ in range(2)]
    others = [
        await desk.insert(JobState.COMPLETED, kind="sort", queue="b"),
        await desk.insert(JobState.COMPLETED, kind="other", queue="a"),
        await desk.insert(JobState.RUNNING, kind="sort", queue="a"),
    ]

    deleted = await desk.control.delete_many(JobFilters(kinds=["sort"], queues=["a"]), tx=desk.connection)

    assert deleted == meant
    assert (await desk.control.list(tx=desk.connection)).jobs == tuple(others)


async def test_delete_many_needs_unsafe_all_without_filters(desk: ControlInTransaction) -> None:
    """Without a filter, nothing is deleted unless `unsafe_all` is set."""
    await desk.insert()

    with pytest.raises(ValueError) as raised:
        await desk.control.delete_many(JobFilters(), tx=desk.connection)
    deleted = await desk.control.delete_many(JobFilters(), tx=desk.connection, unsafe_all=True)

    assert str(raised.value) == (
        "filters must select the jobs to delete, got none; write unsafe_all=True to delete all"
    )
    assert len(deleted) == 1


async def test_list_continues_after_its_cursor(desk: ControlInTransaction) -> None:
    """The pages together are the whole list, without gaps and duplicates, and the last has no cursor."""
    jobs = [await desk.insert(queue=f"q{n}") for n in range(5)]

    pages = [await desk.control.list(limit=2, order_by="scheduled_at", tx=desk.connection)]
    while pages[-1].cursor is not None:
        after = pages[-1].cursor
        pages.append(
            await desk.control.list(after=after, limit=2, order_by="scheduled_at", tx=desk.connection)
        )

    assert [job for page in pages for job in page.jobs] == jobs
    assert [len(page.jobs) for page in pages] == [2, 2, 1]


async def test_list_rejects_a_cursor_of_another_order(desk: ControlInTransaction) -> None:
    """A cursor belongs to the order of its list."""
    await desk.insert()
    page = await desk.control.list(limit=1, tx=desk.connection)

    with pytest.raises(ValueError) as raised:
        await desk.control.list(after=page.cursor, order_by="time", tx=desk.connection)

    assert str(raised.value) == "cursor must be of a list by time, got one by id"


async def test_count_by_state_has_every_requested_state(desk: ControlInTransaction) -> None:
    """A requested state without jobs counts zero; other states are missing."""
    await desk.insert(JobState.PENDING)
    await desk.insert(JobState.PENDING)

    counts = await desk.control.count_by_state([JobState.PENDING, JobState.RUNNING], tx=desk.connection)

    assert counts == {JobState.PENDING: 2, JobState.RUNNING: 0}


async def test_update_output_merges_into_metadata(desk: ControlInTransaction) -> None:
    """Output is stored in every state of a job, beside its other metadata."""
    job = await desk.insert(JobState.RUNNING, metadata='{"a": 1}')

    updated = await desk.control.update_output(job.id, [1, 2], tx=desk.connection)

    assert updated.metadata == {"a": 1, "output": [1, 2]}
    assert updated.output == [1, 2]


@pytest.mark.slow
async def test_update_output_rejects_what_is_too_large(desk: ControlInTransaction) -> None:
    """More than 32 MiB is rejected before anything is sent."""
    job = await desk.insert()

    with pytest.raises(ValueError) as raised:
        await desk.control.update_output(job.id, "x" * OUTPUT_BYTES_MAX, tx=desk.connection)

    assert str(raised.value) == "output must be at most 33,554,432 bytes, got 33,554,434"


async def test_commands_are_rolled_back_with_their_transaction(schema_driver: AsyncpgDriver) -> None:
    """With `tx`, a command is visible in its transaction only, and a rollback undoes it."""
    control = JobControl(schema_driver, ManualClock(), changes=JOB_CHANGES)
    job = await insert_job(schema_driver.pool)

    with contextlib.suppress(ZeroDivisionError):
        async with schema_driver.pool.begin() as tx:
            await control.cancel(job.id, tx=tx)
            inside, outside = await control.get(job.id, tx=tx), await control.get(job.id)
            raise ZeroDivisionError

    assert (inside.state, outside.state) == (JobState.CANCELLED, JobState.AVAILABLE)
    assert await control.get(job.id) == job


async def test_cancel_is_dated_by_the_clients_clock(
    driver: AsyncpgDriver, desk: ControlInTransaction
) -> None:
    """The instant of a cancellation is that of a clock which the settings name."""
    clock = ManualClock()
    clock.advance(timedelta(hours=1))
    job = await desk.insert()

    cancelled = await JobControl(driver, clock, changes=JOB_CHANGES).cancel(job.id, tx=desk.connection)

    assert cancelled.metadata["cancel_attempted_at"] == "2024-05-01T11:34:56.789000Z"


def story(scenario: str) -> dict[str, dict[str, str]]:
    """Return the recorded rows of River, by moment."""
    [photos] = [each["photos"] for each in golden("jobs") if each["scenario"] == scenario]
    return {photo["when"]: photo["row"]["columns"] for photo in photos}


@pytest.mark.slow
async def test_list_continues_after_a_job(desk: ControlInTransaction) -> None:
    """A list can begin after a row, in every order."""
    first, second, third = [
        await desk.insert(JobState.COMPLETED, finalized_at=NOW - timedelta(hours=age)) for age in (1, 3, 2)
    ]
    filters = JobFilters(states=[JobState.COMPLETED])

    by_id = await desk.control.list(after=second, tx=desk.connection)
    by_time = await desk.control.list(filters, after=second, order_by="time", tx=desk.connection)
    backwards = await desk.control.list(
        filters, after=third, descending=True, order_by="time", tx=desk.connection
    )

    assert [page.jobs for page in (by_id, by_time, backwards)] == [(third,), (third, first), (second,)]


@pytest.mark.parametrize("command", ["list", "delete_many"])
@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            Where("colour = 'red'"),
            """where must be a condition that PostgreSQL takes, got column "colour" does not exist in "colour = 'red'\"""",
        ),
        (
            Where("state = @state", {"state": "running"}),
            (
                "where must be a condition that PostgreSQL takes, got operator does not exist: river_job_state = text in "
                "'state = @state'; a text is compared with texts, as in state::text = @state"
            ),
        ),
        (
            Where("1 / (priority - priority) = 1"),
            "where must be a condition that PostgreSQL takes, got division by zero in '1 / (priority - priority) = 1'",
        ),
        (
            Where("TRUE; DELETE FROM river_job"),
            (
                'where must be a condition that PostgreSQL takes, got syntax error at or near ";" in '
                "'TRUE; DELETE FROM river_job'"
            ),
        ),
    ],
)
async def test_condition_that_postgresql_rejects_is_named(
    desk: ControlInTransaction, command: str, where: Where, message: str
) -> None:
    """The error has the condition and not the whole statement."""
    await desk.insert()

    with pytest.raises(InvalidWhere) as refused:
        await getattr(desk.control, command)(JobFilters(where=where), tx=desk.connection)

    assert str(refused.value) == message
    assert refused.value.sql == where.sql
