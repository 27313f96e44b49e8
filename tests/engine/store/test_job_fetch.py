from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from store_rows import HOUR, NOW, params, put_job

from millhand.core.job import ClientId, JobId, JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import ATTEMPTED_BY_MAX, job_get_available, job_get_locked
from millhand.engine.store.job_insert import job_insert_many

CLIENT = ClientId("client_b")


async def fetch(executor: Executor, *, limit: int = 10, **given: object) -> list[JobRow]:
    query = {"queue": "default", "limit": limit, "client_id": CLIENT, "now": NOW, **given}
    return await executor.run(job_get_available(**query))  # type: ignore[arg-type]


async def test_fetched_job_is_running(tx: Executor) -> None:
    """A fetched job runs for this client, from now, with one more attempt."""
    before = await put_job(tx, JobState.AVAILABLE, attempt=1, attempted_by="{client_a}")

    [job] = await fetch(tx)

    assert (job.id, job.state, job.attempt, job.attempted_at) == (before.id, JobState.RUNNING, 2, NOW)
    assert job.attempted_by == ("client_a", CLIENT)
    assert (job.scheduled_at, job.created_at) == (before.scheduled_at, before.created_at)


async def test_fetch_goes_by_priority_then_age_then_id(tx: Executor) -> None:
    """Jobs come by priority, age and id, and the limit excludes the last."""
    late = await put_job(tx, priority=1, scheduled_at=NOW - timedelta(minutes=1))
    unimportant = await put_job(tx, priority=2, scheduled_at=NOW - HOUR)
    early = await put_job(tx, priority=1, scheduled_at=NOW - HOUR)
    twin = await put_job(tx, priority=1, scheduled_at=NOW - HOUR)

    first = await fetch(tx, limit=3)
    second = await fetch(tx, limit=3)

    assert [job.id for job in first] == [early.id, twin.id, late.id]
    assert [job.id for job in second] == [unimportant.id]


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.AVAILABLE])
async def test_fetch_takes_only_available_jobs(tx: Executor, state: JobState) -> None:
    """A job in any other state is not fetched."""
    await put_job(tx, state)

    assert await fetch(tx) == []


async def test_fetch_skips_jobs_that_are_not_due(tx: Executor) -> None:
    """A job that was made available early is fetched at its instant."""
    job = await put_job(tx, scheduled_at=NOW)

    early = await fetch(tx, now=NOW - timedelta(microseconds=1))
    due = await fetch(tx, now=NOW)

    assert (early, [one.id for one in due]) == ([], [job.id])


async def test_fetch_uses_the_database_s_clock_by_default(tx: Executor) -> None:
    """Without `now`, the database's clock decides what is due and dates the attempt."""
    await tx.run(job_insert_many([params()]))

    [job] = await fetch(tx, now=None)

    [clock] = await tx.fetch("SELECT now()")
    assert job.attempted_at == clock["now"]


async def test_fetch_skips_other_queues(tx: Executor) -> None:
    """A job of another queue is not fetched."""
    await put_job(tx, queue="other")

    assert await fetch(tx) == []


async def test_fetch_of_known_kinds_skips_the_others(tx: Executor) -> None:
    """With kinds, a job of another kind stays available, even if it is first; no kinds fetch nothing."""
    unknown = await put_job(tx, kind="unknown", priority=1)
    known = await put_job(tx, kind="known", priority=2)

    assert await fetch(tx, kinds=[]) == []
    assert [job.id for job in await fetch(tx, kinds=["known", "x"])] == [known.id]
    assert [(job.id, job.attempt) for job in await fetch(tx, kinds=None)] == [(unknown.id, 1)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"cancel_attempted_at": "2024-05-01T10:00:00Z", "a": 1}', {"a": 1}),
        (
            '{"a": {"cancel_attempted_at": "2024-05-01T10:00:00Z"}}',
            {"a": {"cancel_attempted_at": "2024-05-01T10:00:00Z"}},
        ),
    ],
)
async def test_fetch_removes_an_old_cancel_mark(tx: Executor, before: str, after: dict[str, object]) -> None:
    """A mark that an old River's retry left on a waiting job is removed by the fetch."""
    await put_job(tx, metadata=before)

    [job] = await fetch(tx)

    assert job.metadata == after


@pytest.mark.parametrize("metadata", ['"cancel_attempted_at"', '["cancel_attempted_at"]', "null"])
async def test_metadata_that_is_no_object_prevents_no_fetch(tx: Executor, metadata: str) -> None:
    """Metadata that only looks like the mark does not change, and the job is fetched."""
    before = await put_job(tx, metadata=metadata)

    [job] = await fetch(tx)

    assert (job.id, job.metadata) == (before.id, before.metadata)


@pytest.mark.parametrize("num_before", [0, 98, 99, 100, 101])
async def test_attempted_by_keeps_its_newest_hundred(tx: Executor, num_before: int) -> None:
    """The clients of the last hundred attempts are kept."""
    before = [f"c{n}" for n in range(num_before)]
    await put_job(tx, attempted_by=f"{{{','.join(before)}}}" if before else None)

    [job] = await fetch(tx)

    assert job.attempted_by == tuple([*before, CLIENT][-ATTEMPTED_BY_MAX:])


async def test_locked_job_is_skipped(schema_driver: AsyncpgDriver) -> None:
    """A fetch skips a job that another transaction has locked, without waiting."""
    held, free = (one.job for one in await schema_driver.pool.run(job_insert_many([params(), params()])))

    async with schema_driver.pool.begin() as tx:
        await tx.fetch(f"SELECT id FROM {schema_driver.schema}.river_job WHERE id = $1 FOR UPDATE", [held.id])
        jobs = await fetch(schema_driver.pool, now=None)

    assert [job.id for job in jobs] == [free.id]


async def test_locked_jobs_are_found(schema_driver: AsyncpgDriver) -> None:
    """Only jobs that another transaction has locked are returned."""
    held, free = (one.job for one in await schema_driver.pool.run(job_insert_many([params(), params()])))
    asked = job_get_locked([free.id, held.id, JobId(held.id + 1_000)])

    async with schema_driver.pool.begin() as tx:
        await tx.fetch(f"SELECT id FROM {schema_driver.schema}.river_job WHERE id = $1 FOR UPDATE", [held.id])
        locked = await schema_driver.pool.run(asked)
    afterwards = await schema_driver.pool.run(asked)

    assert (locked, afterwards) == ([held.id], [])


async def test_concurrent_fetches_share_no_job(schema_driver: AsyncpgDriver) -> None:
    """Of concurrent fetches exactly one gets each job, and all jobs are fetched."""
    inserted = await schema_driver.pool.run(job_insert_many([params()] * 200))

    async def drain() -> list[int]:
        ids: list[int] = []
        while jobs := await fetch(schema_driver.pool, limit=7, now=None):
            ids += [job.id for job in jobs]
        return ids

    drained = await asyncio.gather(*(drain() for _ in range(4)))

    assert Counter(id for ids in drained for id in ids) == Counter(one.job.id for one in inserted)
