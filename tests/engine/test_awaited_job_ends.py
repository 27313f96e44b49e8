"""Awaited jobs that no attempt ends: each statement of Millhand that ends a job notifies those who await it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from client_harness import GENEROUS, Act, ClientHarness, until
from millhand.client import Client
from millhand.core.errors import JobCancelled, JobFailed, NotFound
from millhand.core.job import AttemptError, JobId, JobRow, JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.store.bulk_change import BulkAction, job_change_many
from millhand.engine.store.client_end import job_rescue_stranded_many
from millhand.engine.store.job import Rescue, job_rescue_many, job_schedule
from millhand.engine.store.job_list import JobFilters

FOREVER = timedelta(days=1)  # longer than the test, so that no last poll finds an end
NOW = datetime.now(UTC)

End = Callable[[ClientHarness, Client, JobId], Awaitable[object]]


async def running(harness: ClientHarness, id: JobId) -> JobRow:
    """Let a client that is gone have fetched the job."""
    await harness.driver.pool.fetch(
        "UPDATE river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '1 hour', "
        "attempted_by = '{gone}' WHERE id = $1",
        [id],
    )
    return await harness.row(id)


async def cancel(_: ClientHarness, client: Client, id: JobId) -> None:
    await client.jobs.cancel(id)


async def cancel_on_page(harness: ClientHarness, _: Client, id: JobId) -> None:
    await harness.driver.pool.run(job_change_many(BulkAction.CANCEL, [id], now=NOW))


async def delete(_: ClientHarness, client: Client, id: JobId) -> None:
    await client.jobs.delete(id)


async def delete_many(_: ClientHarness, client: Client, id: JobId) -> None:
    await client.jobs.delete_many(JobFilters(ids=[id]))


async def delete_on_page(harness: ClientHarness, _: Client, id: JobId) -> None:
    await harness.driver.pool.run(job_change_many(BulkAction.DELETE, [id], now=NOW))


async def complete_in_transaction(harness: ClientHarness, client: Client, id: JobId) -> None:
    job = await running(harness, id)
    connection = await asyncpg.connect(harness.url)
    async with connection.transaction():
        await client.attempts.complete(job, {}, tx=connection)
    await connection.close()


async def rescue(harness: ClientHarness, _: Client, id: JobId, state: JobState = JobState.DISCARDED) -> None:
    await running(harness, id)
    await harness.driver.pool.run(job_rescue_many([rescued(id, state)], stuck_horizon=NOW))


async def rescue_stranded(harness: ClientHarness, _: Client, id: JobId) -> None:
    job = await running(harness, id)
    query = job_rescue_stranded_many([job], [rescued(id, JobState.DISCARDED)])
    await harness.driver.pool.run(query)


def rescued(id: JobId, state: JobState) -> Rescue:
    finalized_at = NOW if state.is_finalized else None
    return Rescue(id, state, AttemptError(NOW, 1, "stuck"), finalized_at)


async def schedule(harness: ClientHarness, _: Client, id: JobId) -> None:
    """Discard a job whose unique key another one has, which is scheduled."""
    pool = harness.driver.pool
    [holder] = await pool.fetch(
        "INSERT INTO river_job (kind, args, max_attempts, metadata, state, scheduled_at, unique_key, unique_states) "
        """VALUES ('act', '{}', 1, '{"millhand:awaited": true}', 'retryable', now() - interval '2 hours', """
        "$1::bigint::text::bytea, B'11010001') RETURNING id",
        [id],
    )
    await pool.fetch(
        "UPDATE river_job SET state = 'retryable', scheduled_at = now() - interval '1 hour', "
        "unique_key = id::text::bytea, unique_states = B'11010001' WHERE id = $1",
        [id],
    )
    moved = await pool.run(job_schedule(now=NOW, limit=10))
    assert {one.id: one.is_discarded for one in moved} == {holder["id"]: False, id: True}


async def rescue_to_retry(harness: ClientHarness, client: Client, id: JobId) -> None:
    await rescue(harness, client, id, JobState.RETRYABLE)


ENDS: dict[End, type] = {
    cancel: JobCancelled,
    cancel_on_page: JobCancelled,
    complete_in_transaction: type(None),
    delete: NotFound,
    delete_many: NotFound,
    delete_on_page: NotFound,
    rescue: JobFailed,
    rescue_stranded: JobFailed,
    schedule: JobFailed,
}


@pytest.fixture
def no_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first poll of each job come after the end of the test."""
    monkeypatch.setattr("millhand.engine.awaited_jobs.FIRST_PAUSE_SECONDS", 1e6)


@pytest.mark.slow
@pytest.mark.usefixtures("no_polls")
async def test_caller_is_notified_when_no_attempt_ends_the_job(harness: ClientHarness) -> None:
    """
    Without polls, each statement that ends an awaited job reaches its caller.

    Jobs that are not awaited, and awaited ones that go on, send no notification.
    """
    heard: list[str] = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    connection = await asyncpg.connect(harness.url)
    await connection.add_listener("public.millhand_result", lambda *call: heard.append(call[-1]))
    async with harness.client(workers, queues={"other": 1}) as client:
        inserted = {end: (await client.insert(Act("not awaited"))).job.id for end in [*ENDS, rescue_to_retry]}
        waits = {end: asyncio.ensure_future(client.insert_and_wait(Act(end.__name__), timeout=FOREVER))
                 for end in [*ENDS, rescue_to_retry]}  # fmt: skip
        await until(lambda: client._awaited.num_awaited == len(waits))
        async with asyncio.timeout(GENEROUS):
            awaited = {row.args["what"]: row.id for row in await harness.rows()}
            for end in waits:
                await end(harness, client, inserted[end])
                await end(harness, client, awaited[end.__name__])
            ends = await asyncio.gather(*(waits[end] for end in ENDS), return_exceptions=True)
        await harness.execute("SELECT pg_notify('public.millhand_result', '0')")
        await until(lambda: "0" in heard)
        waits[rescue_to_retry].cancel()
    await connection.close()

    assert dict(zip(ENDS, map(type, ends), strict=True)) == ENDS
    assert heard == [*(str(awaited[end.__name__]) for end in ENDS), "0"]
