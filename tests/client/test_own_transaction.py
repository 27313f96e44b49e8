"""A worker completes its job and stores checkpoints in its own transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.core.clock import SystemClock
from millhand.core.errors import ConfigError, JobCancel, JobNotRunning, JobSnooze, NotFound
from millhand.core.event import Event, EventKind
from millhand.core.job import ClientId, JobId, JobRow, JobState, Json
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.step import CURSOR_KEY, STEP_KEY, Cursor
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.control import AttemptControl
from millhand.engine.store.job import job_get_available

Script = Callable[[Job[Act], asyncpg.Connection], Awaitable[None]]


class Rollback(Exception):
    """Raised by a test to roll its transaction back."""


async def _work(harness: ClientHarness, script: Script, num_events: int = 1) -> list[Event]:
    """Insert one job and return its events; the script gets a connection with a table of effects."""
    workers = Workers()

    @workers.add(retry=ConstantRetryPolicy(timedelta(0)))
    async def act(job: Job[Act]) -> None:
        async with _connected(harness) as connection:
            await script(job, connection)

    async with harness.client(workers) as client:
        with client.subscribe() as events:
            await client.insert(Act("x"))
            return [await harness.next(events) for _ in range(num_events)]


@contextlib.asynccontextmanager
async def _connected(harness: ClientHarness) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(harness.url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_job_is_completed_with_the_transaction_of_its_worker(harness: ClientHarness) -> None:
    """The job is completed at the commit with the metadata staged by then; metadata staged later is merged."""
    before: list[JobRow] = []
    returned: list[JobRow] = []

    async def script(job: Job[Act], connection: asyncpg.Connection) -> None:
        job.set_metadata("seen", 1)
        async with connection.transaction():
            returned.append(await job.complete(tx=connection))
            before.append(await harness.row(job.id))
        before.append(await harness.row(job.id))
        job.record_output("late")

    [event] = await _work(harness, script)
    row = await harness.row(JobId(1))

    assert [(one.state, one.metadata) for one in before] == [
        (JobState.RUNNING, {}),
        (JobState.COMPLETED, {"seen": 1}),
    ]
    assert returned == before[1:]
    assert event.kind is EventKind.JOB_COMPLETED
    assert (row.state, row.metadata) == (JobState.COMPLETED, {"seen": 1, "output": "late"})
    assert row.finalized_at == returned[0].finalized_at


@pytest.mark.slow
@pytest.mark.parametrize("ending", [ValueError("late"), JobSnooze(timedelta(hours=1)), JobCancel("late")])
async def test_completion_wins_over_a_later_error(harness: ClientHarness, ending: Exception) -> None:
    """The row stays completed without an error, and so does its event, whatever the worker raises afterwards."""

    async def script(job: Job[Act], connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await job.complete(tx=connection)
        raise ending

    [event] = await _work(harness, script)
    row = await harness.row(JobId(1))

    assert event.kind is EventKind.JOB_COMPLETED
    assert (row.state, row.errors, row.attempt) == (JobState.COMPLETED, (), 1)


async def test_completion_that_is_rolled_back_has_no_effect(harness: ClientHarness) -> None:
    """The first attempt's rollback undoes its completion and its error is stored; the second attempt completes."""

    async def script(job: Job[Act], connection: asyncpg.Connection) -> None:
        with contextlib.suppress(Rollback):
            async with connection.transaction():
                await job.complete(tx=connection)
                raise Rollback
        if job.attempt == 1:
            raise ValueError("once more")

    emitted = await _work(harness, script, 2)
    row = await harness.row(JobId(1))

    assert [event.kind for event in emitted] == [EventKind.JOB_FAILED, EventKind.JOB_COMPLETED]
    assert [error.error for error in row.errors] == ["ValueError: once more"]


async def test_job_that_does_not_run_any_more_is_not_completed(harness: ClientHarness) -> None:
    """A job that was cancelled, rescued or fetched again raises JobNotRunning, a deleted one NotFound."""
    emitted: list[str] = []
    changes = {
        "state = 'retryable'": "retryable",
        "state = 'cancelled', finalized_at = now()": "cancelled",
        "attempted_at = now() + interval '1 second'": "running again",
    }

    async def script(job: Job[Act], connection: asyncpg.Connection) -> None:
        for change in changes:
            async with connection.transaction():
                await connection.execute(f"UPDATE river_job SET {change}")
                for write in (job.complete(tx=connection), _in_step(job, connection)):
                    with pytest.raises(JobNotRunning) as refused:
                        await write
                    emitted.append(str(refused.value))
                await connection.execute(
                    "UPDATE river_job SET state = 'running', finalized_at = NULL, attempted_at = $1",
                    job.row.attempted_at,
                )
        async with connection.transaction():
            await connection.execute("DELETE FROM river_job")
            with pytest.raises(NotFound, match=r"^job must exist, found none with id 1$"):
                await job.complete(tx=connection)

    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        async with _connected(harness) as connection:
            await script(job, connection)
        done.set()

    done = asyncio.Event()
    async with harness.client(workers) as client:
        await client.insert(Act("x"))
        await asyncio.wait_for(done.wait(), GENEROUS)

    assert emitted == [
        "attempt must be running to write its job, got attempt 1 of job 1, which is "
        f"{state}; roll your transaction back"
        for state in changes.values()
        for _ in range(2)
    ]


async def _in_step(job: Job[Act], connection: asyncpg.Connection) -> None:
    control = AttemptControl(job.client._driver, SystemClock())
    await control.checkpoint(job.row, {STEP_KEY: "x"}, tx=connection)


async def test_only_one_of_two_attempts_of_a_job_does_its_work(harness: ClientHarness) -> None:
    """An attempt whose client was declared dead cannot commit: the effects happen once."""
    await harness.insert_raw("act", "{}")
    fetch = job_get_available(queue="default", limit=1, client_id=ClientId("me"))
    [taken_for_dead] = await harness.driver.pool.run(fetch)
    await harness.execute("UPDATE river_job SET state = 'available'")
    [successor] = await harness.driver.pool.run(fetch)
    control = AttemptControl(harness.driver, SystemClock())

    async with _connected(harness) as connection:
        with pytest.raises(JobNotRunning):
            async with connection.transaction():
                await control.complete(taken_for_dead, {}, tx=connection)
        async with connection.transaction():
            row = await control.complete(successor, {"a": 1}, tx=connection)

    assert (row.state, row.attempt, row.metadata) == (JobState.COMPLETED, 2, {"a": 1})


async def test_job_without_a_client_cannot_write(harness: ClientHarness) -> None:
    """A job built by a test raises ConfigError."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    row = JobRow(
        JobId(1), JobState.RUNNING, 1, 25, now, now, None, now, 1, "{}", ("me",), (), "act", {}, "default", (), None, None
    )  # fmt: skip

    with pytest.raises(ConfigError) as refused:
        await Job(row, Act("x")).complete(tx=None)

    assert (
        str(refused.value)
        == "job must have been fetched by a client to write its row, got Job(id=1, kind='act', attempt=1/25) without one"
    )


async def test_checkpoint_is_visible_after_the_commit(harness: ClientHarness) -> None:
    """A step and its cursor are in the row after the commit of their transaction and not before."""
    seen: list[dict[str, Json]] = []

    async def script(job: Job[Act], connection: asyncpg.Connection) -> None:
        async def check() -> None:
            seen.append((await harness.row(job.id)).metadata)

        async def plain() -> None:
            async with connection.transaction():
                await job.checkpoint(tx=connection)
                await check()
            await check()

        async def counting(cursor: Cursor) -> None:
            async with connection.transaction():
                await cursor.checkpoint({"line": 1}, tx=connection)
            assert cursor.value == {"line": 1}
            await check()
            cursor.set({"line": 2})
            await job.checkpoint(tx=connection)
            await check()

        await job.step("plain", plain)
        await job.step_cursor("counting", counting)

    [event] = await _work(harness, script)

    assert event.kind is EventKind.JOB_COMPLETED
    assert seen == [
        {},
        {STEP_KEY: "plain", CURSOR_KEY: None},
        {STEP_KEY: "counting", CURSOR_KEY: {"counting": {"line": 1}}},
        {STEP_KEY: "counting", CURSOR_KEY: {"counting": {"line": 2}}},
    ]


@pytest.mark.parametrize("is_committed", [True, False])
async def test_progress_of_a_transaction_is_rolled_back_with_it(
    harness: ClientHarness, is_committed: bool
) -> None:
    """The attempt's outcome stores neither the checkpoint nor the cursor of a transaction that was rolled back."""

    async def script(job: Job[Act], connection: asyncpg.Connection) -> None:
        async def counting(cursor: Cursor) -> None:
            cursor.set(0)
            async with connection.transaction():
                await cursor.checkpoint(1, tx=connection)
                if not is_committed:
                    raise Rollback
            raise Rollback

        if job.attempt == 1:
            await job.step("first", _nothing)
            await job.step_cursor("counting", counting)

    emitted = await _work(harness, script)

    assert emitted[0].job is not None
    expected = {STEP_KEY: "counting", CURSOR_KEY: {"counting": 1}} if is_committed else {}
    assert (emitted[0].kind, emitted[0].job.metadata) == (EventKind.JOB_FAILED, expected)


async def test_checkpoint_that_the_database_refuses_changes_no_progress(harness: ClientHarness) -> None:
    """After a failed checkpoint the outcome stores the cursor that was set before."""

    async def script(job: Job[Act], connection: asyncpg.Connection) -> None:
        async def counting(cursor: Cursor) -> None:
            cursor.set(1)
            await connection.close()
            await cursor.checkpoint(2, tx=connection)

        if job.attempt == 1:
            await job.step_cursor("counting", counting)

    emitted = await _work(harness, script)

    assert emitted[0].job is not None
    assert emitted[0].job.metadata == {CURSOR_KEY: {"counting": 1}}
    assert emitted[0].job.errors[0].error.startswith("ConnectionLost: ")


async def test_checkpoint_does_not_skip_an_interrupted_step(harness: ClientHarness) -> None:
    """runtime: resumable_validation; with only a cursor in the row, the step of that cursor comes first."""
    emitted: list[str] = []

    async def script(job: Job[Act], connection: asyncpg.Connection) -> None:
        async def early() -> None:
            try:
                await job.checkpoint(tx=connection)
            except ValueError as error:
                emitted.append(str(error))

        async def counting(cursor: Cursor) -> None:
            cursor.set(1)
            if job.attempt == 1:
                raise Rollback

        if job.attempt == 2:
            await job.step("early", early)
        await job.step_cursor("counting", counting)

    events = await _work(harness, script, 2)

    assert events[-1].kind is EventKind.JOB_COMPLETED
    assert emitted == [
        "checkpoint must come after the step that an earlier attempt left unfinished, got step 'early' before 'counting'"
    ]


async def test_thread_makes_a_checkpoint_through_the_event_loop(harness: ClientHarness) -> None:
    """A plain function runs the coroutine in the client's event loop, as for an insert."""
    workers = Workers()
    connection = await asyncpg.connect(harness.url)

    @workers.add()
    def act(job: Job[Act]) -> None:
        def run(coroutine: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, job.client.loop).result(GENEROUS)

        def counting(cursor: Cursor) -> None:
            run(cursor.checkpoint(5, tx=connection))
            run(job.complete(tx=connection))

        job.step_cursor_sync("counting", counting)

    async with harness.client(workers) as client:
        event = await harness.work(client, Act("x"))
    await connection.close()

    assert event.job is not None
    assert (event.kind, event.job.metadata) == (
        EventKind.JOB_COMPLETED,
        {STEP_KEY: "counting", CURSOR_KEY: {"counting": 5}},
    )


async def _nothing() -> None: ...
