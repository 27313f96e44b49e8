"""Work jobs in a test's transaction: the next one, or all until none is due."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sample_jobs import DAY, GENEROUS, Act, Beget, new_client, open_transaction, rows_left

from millhand.client import Client
from millhand.core.errors import ConfigError, JobTimeout
from millhand.core.hooks import AttemptFailure, Hook, Middleware
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState, Json
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.testing import Counts, Drained, drain, work_again, work_one


async def test_drain_works_and_counts_all_due_jobs(client: Client, any_tx: Any) -> None:
    """On every kind of transaction, each outcome is counted, in the order of fetches, and the rows are written."""
    await client.insert_many([Act(what) for what in ("a", "fail", "snooze", "cancel")], tx=any_tx)
    await client.insert(Act("fail"), InsertOpts(max_attempts=1, priority=2), tx=any_tx)

    drained = await drain(client, tx=any_tx)

    assert drained.counts == Counts(cancelled=1, completed=1, discarded=1, failed=1, snoozed=1)
    assert [(one.job.args["what"], str(one.error or "")) for one in drained.worked] == [
        ("a", ""),
        ("fail", "no such thing"),
        ("snooze", ""),
        ("cancel", ""),
        ("fail", "no such thing"),
    ]
    for one in drained.worked:
        assert one.job == await client.jobs.get(one.job.id, tx=any_tx)
    assert await drain(client, tx=any_tx) == Drained()


async def test_drain_leaves_nothing_after_a_rollback(
    client: Client, driver: AsyncpgDriver, any_tx: Any
) -> None:
    """Other transactions see neither the inserted jobs nor those that their workers inserted."""
    await client.insert(Beget(2), tx=any_tx)

    await drain(client, tx=any_tx)

    assert await rows_left(driver) == 0


async def test_work_one_works_the_next_due_job(client: Client, tx: asyncpg.Connection) -> None:
    """One call makes one attempt in the named queues; it returns None if no job is due there."""
    await client.insert_many(
        [(Act("a"), InsertOpts(queue="one")), (Act("b"), InsertOpts(queue="two"))], tx=tx
    )

    second = await work_one(client, "two", tx=tx)
    assert second is not None
    assert (second.job.args, second.job.state) == ({"what": "b"}, JobState.COMPLETED)
    assert await work_one(client, "two", "three", tx=tx) is None
    await tx.execute(
        "INSERT INTO river_queue (name, metadata, paused_at, updated_at) VALUES ('one', '{}', now(), now())"
    )
    await tx.execute("INSERT INTO river_job (kind, args, max_attempts) VALUES ('of_others', '{}', 25)")
    await client.insert(Act(), InsertOpts(scheduled_at=client.config.clock.now() + DAY), tx=tx)
    assert await work_one(client, tx=tx) is None
    await client.queues.resume("one", tx=tx)
    first = await work_one(client, tx=tx)
    assert first is not None
    assert first.job.args == {"what": "a"}


@pytest.mark.slow
async def test_drain_works_jobs_that_workers_insert(client: Client, tx: asyncpg.Connection) -> None:
    """`job.client` uses the test's transaction, so jobs that workers insert are worked until none is left."""
    await client.insert(Beget(3), tx=tx)

    drained = await drain(client, tx=tx)

    assert [one.job.args["generations"] for one in drained.worked] == [3, 2, 1, 0]
    assert {one.job.queue for one in drained.worked[1:]} == {"children"}
    await client.insert(Beget(1), tx=tx)
    assert (await drain(client, "default", tx=tx)).counts == Counts(completed=1)


async def test_drain_works_waiting_jobs_on_request(client: Client, tx: asyncpg.Connection) -> None:
    """With the options, scheduled, snoozed and failed jobs are worked, and the clock stands still."""
    before = client.config.clock.now()
    later = InsertOpts(scheduled_at=before + DAY)
    await client.insert_many(
        [(Act("later"), later), Act("snooze"), Act("fail once"), (Act("fail"), InsertOpts(max_attempts=3))],
        tx=tx,
    )

    assert (await drain(client, tx=tx)).counts == Counts(failed=2, snoozed=1)
    assert (await drain(client, tx=tx, with_scheduled=True)).counts == Counts(completed=2)
    assert (await drain(client, tx=tx, with_retryable=True)).counts == Counts(
        completed=1, discarded=1, failed=1
    )
    assert client.config.clock.now() - before < timedelta(minutes=1)


async def test_drain_raises_failures_on_request(client: Client, tx: asyncpg.Connection) -> None:
    """The worker's error is raised after its job is written; later jobs are left for the next call."""
    failing = await client.insert(Act("fail"), tx=tx)
    await client.insert(Act("b"), InsertOpts(priority=4), tx=tx)

    with pytest.raises(LookupError, match=r"^no such thing$"):
        await drain(client, tx=tx, raise_failures=True)

    assert (await client.jobs.get(failing.job.id, tx=tx)).state is JobState.RETRYABLE
    assert (await drain(client, tx=tx)).counts == Counts(completed=1)
    await client.insert(Act("fail"), tx=tx)
    with pytest.raises(LookupError, match=r"^no such thing$"):
        await work_one(client, tx=tx, raise_failures=True)


@pytest.mark.slow
async def test_drain_without_end_raises(client: Client, tx: asyncpg.Connection) -> None:
    """Jobs that insert each other for ever fail the test, with their kinds."""
    await client.insert(Beget(1_000), tx=tx)

    with pytest.raises(
        AssertionError, match=r"^jobs must come to an end within 5 attempts, got 'beget' 6 times$"
    ):
        await drain(client, tx=tx, max_jobs=5)


@pytest.mark.slow
async def test_drain_rejects_a_client_that_cannot_work(committed_url: str) -> None:
    """A client without workers, and one that works jobs itself, raise."""
    async with open_transaction("asyncpg", committed_url) as tx:
        with pytest.raises(
            ConfigError, match=r"^client must have workers to work jobs, got none; make it with "
        ):
            await drain(Client(committed_url), tx=tx)
        async with new_client(committed_url, queues={"elsewhere": 1}) as working:
            with pytest.raises(ConfigError, match=r"^client must not work jobs while a test does, got '"):
                await work_one(working, tx=tx)


@pytest.mark.slow
async def test_attempt_has_every_step_of_production(url: str, tx: asyncpg.Connection) -> None:
    """Middleware, hooks, timeout, steps and error handlers are those of production."""
    seen: list[str] = []
    stepping = Workers()

    @stepping.add(kind="act", timeout=timedelta(milliseconds=30))
    async def act(job: Job[Act]) -> None:
        await job.step("first", first)
        await asyncio.Event().wait()

    async def first() -> None:
        seen.append("step")

    class Note(Middleware):
        async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
            seen.append("middleware")
            await call_next()

    class Begin(Hook):
        async def work_begin(self, job: Job[Json]) -> None:
            seen.append("hook")

    class Handler:
        async def handle_error(self, failure: AttemptFailure) -> bool:
            seen.append("handler")
            return False

    client = new_client(
        url, workers=stepping, middleware=[Note()], hooks=[Begin()], error_handlers=[Handler()]
    )
    await client.insert(Act(), InsertOpts(max_attempts=2), tx=tx)

    drained = await drain(client, tx=tx, with_retryable=True)

    assert [type(one.error) for one in drained.worked] == [JobTimeout, JobTimeout]
    assert drained.counts == Counts(failed=1, discarded=1)
    assert seen == ["middleware", "hook", "step", "handler", "middleware", "hook", "handler"]


async def test_plain_function_inserts_from_its_thread(url: str, tx: asyncpg.Connection) -> None:
    """It uses `job.client.loop`, the test's event loop, and inserts into the test's transaction."""
    plain = Workers()

    @plain.add(kind="act")
    def act(job: Job[Act]) -> None:
        if job.args.what == "x":
            inserting = job.client.insert(Act("from a thread"))
            asyncio.run_coroutine_threadsafe(inserting, job.client.loop).result(GENEROUS)

    client = new_client(url, workers=plain)
    await client.insert(Act(), tx=tx)

    assert (await drain(client, tx=tx)).counts == Counts(completed=2)


@pytest.mark.slow
async def test_drain_works_jobs_without_a_transaction(committed_url: str) -> None:
    """Without a transaction, a client that was started without queues commits each step."""
    async with new_client(committed_url) as client:
        await client.insert_many([Beget(1), Act("fail")])

        drained = await drain(client)
        again = await work_again(client, drained.worked[-1].job)

    assert drained.counts == Counts(completed=2, failed=1)
    assert again.job.attempt == 1 + drained.worked[-1].job.attempt
