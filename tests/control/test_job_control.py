"""Commands given to jobs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import pytest

from factory import NOW, golden, insert_job
from millhand.control import JobControl
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.driver.protocol import Executor
from millhand.errors import InvalidWhere, JobRunning, NotFound, UniqueConflict
from millhand.job import FINALIZED_STATES, OUTPUT_BYTES_MAX, JobRow, JobState
from millhand.store.job_list import JobFilters
from millhand.store.where import Where
from millhand.testing import ManualClock

OTHERS = [JobState.AVAILABLE, JobState.PENDING, JobState.RETRYABLE, JobState.SCHEDULED]
KEY = bytes(32)
ALL_STATES_MASK = 0xFF


@dataclass(frozen=True)
class Desk:
    """A control in a transaction of the test's."""

    control: JobControl
    tx: Executor
    connection: asyncpg.Connection

    async def insert(self, state: JobState = JobState.AVAILABLE, **columns: object) -> JobRow:
        return await insert_job(self.tx, state, **columns)


@pytest.fixture
def desk(driver: AsyncpgDriver, tx: Executor, connection: asyncpg.Connection) -> Desk:
    return Desk(JobControl(driver, ManualClock()), tx, connection)


async def test_get_returns_the_row(desk: Desk) -> None:
    """A job is got by its id, inside the caller's own transaction."""
    job = await desk.insert(metadata='{"a": 1}', tags=["one", "two"])

    got = await desk.control.get(job.id, tx=desk.connection)

    assert got == job


@pytest.mark.parametrize("command", ["get", "cancel", "retry", "delete"])
async def test_command_raises_not_found_when_there_is_no_such_job(desk: Desk, command: str) -> None:
    """Every command says which job it did not find."""
    with pytest.raises(NotFound) as raised:
        await getattr(desk.control, command)(77, tx=desk.connection)

    assert str(raised.value) == "job must exist, found none with id 77"


async def test_update_output_raises_not_found_when_there_is_no_such_job(desk: Desk) -> None:
    """Output for a job that is not there is an error, not a silence."""
    with pytest.raises(NotFound):
        await desk.control.update_output(77, 1, tx=desk.connection)


@pytest.mark.parametrize("state", OTHERS)
async def test_cancel_ends_a_job_that_waits(desk: Desk, state: JobState) -> None:
    """A job that nobody works is cancelled at once, and the mark of it stays in its metadata, as River's."""
    job = await desk.insert(state, metadata='{"a": 1}')

    cancelled = await desk.control.cancel(job.id, tx=desk.connection)

    recorded = story(f"cancelled remotely while {state}")["cancelled"]
    assert (cancelled.state, set(cancelled.metadata)) == (recorded["state"], {"a", "cancel_attempted_at"})
    assert cancelled.finalized_at == NOW
    assert cancelled.metadata["cancel_attempted_at"] == "2024-05-01T10:34:56.789000Z"


async def test_cancel_asks_a_running_job_to_end(desk: Desk) -> None:
    """A running job stays running, marked; its client is who ends it."""
    job = await desk.insert(JobState.RUNNING)

    asked = await desk.control.cancel(job.id, tx=desk.connection)

    assert (asked.state, asked.finalized_at) == (JobState.RUNNING, None)
    assert "cancel_attempted_at" in asked.metadata


@pytest.mark.parametrize("state", sorted(FINALIZED_STATES))
async def test_cancel_leaves_a_finalized_job(desk: Desk, state: JobState) -> None:
    """What is over is returned as it is, without a mark."""
    job = await desk.insert(state)

    cancelled = await desk.control.cancel(job.id, tx=desk.connection)

    assert cancelled == job


@pytest.mark.parametrize("state", ["completed", "discarded", "pending", "retryable", "scheduled"])
async def test_retry_makes_a_job_available_with_one_attempt_more(desk: Desk, state: str) -> None:
    """A job without attempts left gets one, and everything else becomes as River leaves it."""
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


async def test_retry_takes_the_mark_of_a_cancellation_away(desk: Desk) -> None:
    """A job retried after its cancellation runs and fails like any other."""
    job = await desk.insert(
        JobState.CANCELLED, metadata='{"a": 1, "cancel_attempted_at": "2024-05-01T00:00:00Z"}'
    )

    retried = await desk.control.retry(job.id, tx=desk.connection)

    assert (retried.state, retried.metadata) == (JobState.AVAILABLE, {"a": 1})


@pytest.mark.parametrize("state", [JobState.RUNNING, JobState.AVAILABLE])
async def test_retry_leaves_a_job_that_is_on_its_way(desk: Desk, state: JobState) -> None:
    """Nothing happens to a job that runs, or waits for nothing but a free slot."""
    job = await desk.insert(state, attempt=25)

    retried = await desk.control.retry(job.id, tx=desk.connection)

    assert retried == job


async def test_retry_raises_unique_conflict_when_the_key_is_taken(desk: Desk) -> None:
    """A job whose unique key another holds by now is not retried, and the error names job and constraint."""
    await desk.insert(unique_key=KEY, unique_states=0xF5)
    job = await desk.insert(JobState.DISCARDED, unique_key=KEY, unique_states=0xF5)

    with pytest.raises(UniqueConflict) as raised:
        await desk.control.retry(job.id, tx=desk.connection)

    assert (raised.value.id, raised.value.constraint) == (job.id, "river_job_unique_idx")


async def test_delete_returns_what_the_job_was(desk: Desk) -> None:
    """A deleted job is returned, and gone."""
    job = await desk.insert(JobState.COMPLETED)

    deleted = await desk.control.delete(job.id, tx=desk.connection)

    assert deleted == job
    with pytest.raises(NotFound):
        await desk.control.get(job.id, tx=desk.connection)


async def test_delete_raises_job_running_for_a_running_job(desk: Desk) -> None:
    """A running job is refused, and stays."""
    job = await desk.insert(JobState.RUNNING)

    with pytest.raises(JobRunning) as raised:
        await desk.control.delete(job.id, tx=desk.connection)

    assert str(raised.value) == (
        f"job must not be running to be deleted, got job {job.id} running; cancel it first"
    )
    assert await desk.control.get(job.id, tx=desk.connection) == job


async def test_delete_many_deletes_what_passes_all_filters_but_running_jobs(desk: Desk) -> None:
    """Jobs are deleted if they meet every filter; a running one never is."""
    meant = [await desk.insert(JobState.COMPLETED, kind="sort", queue="a") for _ in range(2)]
    others = [
        await desk.insert(JobState.COMPLETED, kind="sort", queue="b"),
        await desk.insert(JobState.COMPLETED, kind="other", queue="a"),
        await desk.insert(JobState.RUNNING, kind="sort", queue="a"),
    ]

    deleted = await desk.control.delete_many(JobFilters(kinds=["sort"], queues=["a"]), tx=desk.connection)

    assert deleted == meant
    assert (await desk.control.list(tx=desk.connection)).jobs == tuple(others)


async def test_delete_many_refuses_to_delete_everything_by_accident(desk: Desk) -> None:
    """Without a filter nothing is deleted, unless it is said that everything is meant."""
    await desk.insert()

    with pytest.raises(ValueError) as raised:
        await desk.control.delete_many(JobFilters(), tx=desk.connection)
    deleted = await desk.control.delete_many(JobFilters(), tx=desk.connection, unsafe_all=True)

    assert str(raised.value) == (
        "filters must say which jobs are to be deleted, got none; say unsafe_all=True to mean all"
    )
    assert len(deleted) == 1


async def test_list_goes_on_after_its_cursor(desk: Desk) -> None:
    """Pages put together are the whole list, without gaps and doubles, and the last has no cursor."""
    jobs = [await desk.insert(queue=f"q{n}") for n in range(5)]

    pages = [await desk.control.list(limit=2, order_by="scheduled_at", tx=desk.connection)]
    while pages[-1].cursor is not None:
        after = pages[-1].cursor
        pages.append(
            await desk.control.list(after=after, limit=2, order_by="scheduled_at", tx=desk.connection)
        )

    assert [job for page in pages for job in page.jobs] == jobs
    assert [len(page.jobs) for page in pages] == [2, 2, 1]


async def test_list_refuses_a_cursor_of_another_order(desk: Desk) -> None:
    """A cursor means something only in a list of its own order."""
    await desk.insert()
    page = await desk.control.list(limit=1, tx=desk.connection)

    with pytest.raises(ValueError) as raised:
        await desk.control.list(after=page.cursor, order_by="time", tx=desk.connection)

    assert str(raised.value) == "cursor must be of a list by time, got one by id"


async def test_count_by_state_names_every_state_asked_for(desk: Desk) -> None:
    """A state without jobs counts zero, and one that was not asked for is not there."""
    await desk.insert(JobState.PENDING)
    await desk.insert(JobState.PENDING)

    counts = await desk.control.count_by_state([JobState.PENDING, JobState.RUNNING], tx=desk.connection)

    assert counts == {JobState.PENDING: 2, JobState.RUNNING: 0}


async def test_update_output_merges_into_metadata(desk: Desk) -> None:
    """Output is stored whatever state the job is in, beside the rest of its metadata."""
    job = await desk.insert(JobState.RUNNING, metadata='{"a": 1}')

    updated = await desk.control.update_output(job.id, [1, 2], tx=desk.connection)

    assert updated.metadata == {"a": 1, "output": [1, 2]}
    assert updated.output == [1, 2]


async def test_update_output_refuses_what_is_too_large(desk: Desk) -> None:
    """More than 32 MiB is refused before anything is sent."""
    job = await desk.insert()

    with pytest.raises(ValueError) as raised:
        await desk.control.update_output(job.id, "x" * OUTPUT_BYTES_MAX, tx=desk.connection)

    assert str(raised.value) == "output must be at most 33,554,432 bytes, got 33,554,434"


async def test_commands_are_taken_back_with_their_transaction(schema_driver: AsyncpgDriver) -> None:
    """With `tx` a command is part of the caller's transaction: seen in it alone, and gone with its rollback."""
    control = JobControl(schema_driver, ManualClock())
    job = await insert_job(schema_driver.pool)

    with contextlib.suppress(ZeroDivisionError):
        async with schema_driver.pool.begin() as tx:
            await control.cancel(job.id, tx=tx)
            inside, outside = await control.get(job.id, tx=tx), await control.get(job.id)
            raise ZeroDivisionError

    assert (inside.state, outside.state) == (JobState.CANCELLED, JobState.AVAILABLE)
    assert await control.get(job.id) == job


async def test_cancel_is_dated_by_the_clients_clock(driver: AsyncpgDriver, desk: Desk) -> None:
    """The instant of a cancellation is that of whoever asked for it."""
    clock = ManualClock()
    clock.advance(timedelta(hours=1))
    job = await desk.insert()

    cancelled = await JobControl(driver, clock).cancel(job.id, tx=desk.connection)

    assert cancelled.metadata["cancel_attempted_at"] == "2024-05-01T11:34:56.789000Z"


def story(scenario: str) -> dict[str, dict[str, str]]:
    """Return the rows that River was seen to leave, by moment."""
    [photos] = [each["photos"] for each in golden("jobs") if each["scenario"] == scenario]
    return {photo["when"]: photo["row"]["columns"] for photo in photos}


async def test_list_goes_on_after_a_job(desk: Desk) -> None:
    """A list begins behind a row as well as behind a page, in whatever order, by the instant of that order."""
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
async def test_condition_that_postgresql_refuses_says_why(
    desk: Desk, command: str, where: Where, message: str
) -> None:
    """The error names the condition, not the statement around it."""
    await desk.insert()

    with pytest.raises(InvalidWhere) as refused:
        await getattr(desk.control, command)(JobFilters(where=where), tx=desk.connection)

    assert str(refused.value) == message
    assert refused.value.sql == where.sql
