"""Jobs worked in a test's own transaction: the next one, or all until none is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from testing_room import DAY, GENEROUS, Act, Beget, Named, Nightly, new_client, rows_left, speak, stage

from millhand.client import Client
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.errors import ConfigError, DriverError, JobTimeout
from millhand.hooks import AttemptFailure, Hook, Middleware
from millhand.insert_opts import InsertOpts
from millhand.job import Job, JobState, Json
from millhand.retry import ConstantRetryPolicy
from millhand.testing import Counts, Drained, drain, require_many_inserted, work, work_again, work_one
from millhand.unique import UniqueOpts
from millhand.worker import Workers


async def test_all_jobs_that_are_due_are_worked_and_counted(client: Client, any_tx: Any) -> None:
    """On every kind of transaction: each ending is counted, in the order of fetches, and the rows are written."""
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


async def test_nothing_is_left_when_the_transaction_is_rolled_back(
    client: Client, driver: AsyncpgDriver, any_tx: Any
) -> None:
    """Neither what was inserted nor what its worker inserted in turn can be seen by anybody else."""
    await client.insert(Beget(2), tx=any_tx)

    await drain(client, tx=any_tx)

    assert await rows_left(driver) == 0


async def test_next_job_is_worked_or_none(client: Client, tx: asyncpg.Connection) -> None:
    """One call, one attempt, of the queues that are named; None where nothing is due, paused, or of a kind of others."""
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


async def test_jobs_that_workers_insert_are_worked_too(client: Client, tx: asyncpg.Connection) -> None:
    """`job.client` speaks in the test's transaction, so generations follow each other until the last."""
    await client.insert(Beget(3), tx=tx)

    drained = await drain(client, tx=tx)

    assert [one.job.args["generations"] for one in drained.worked] == [3, 2, 1, 0]
    assert {one.job.queue for one in drained.worked[1:]} == {"children"}
    await client.insert(Beget(1), tx=tx)
    assert (await drain(client, "default", tx=tx)).counts == Counts(completed=1)


async def test_waiting_jobs_are_worked_where_that_is_asked(client: Client, tx: asyncpg.Connection) -> None:
    """Scheduled and snoozed ones, failed ones until their end, or both; the clock stands meanwhile."""
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


async def test_failures_are_raised_where_that_is_asked(client: Client, tx: asyncpg.Connection) -> None:
    """The worker's own error comes out, after its job was written; what is behind it is left for the next call."""
    failing = await client.insert(Act("fail"), tx=tx)
    await client.insert(Act("b"), InsertOpts(priority=4), tx=tx)

    with pytest.raises(LookupError, match=r"^no such thing$"):
        await drain(client, tx=tx, raise_failures=True)

    assert (await client.jobs.get(failing.job.id, tx=tx)).state is JobState.RETRYABLE
    assert (await drain(client, tx=tx)).counts == Counts(completed=1)
    await client.insert(Act("fail"), tx=tx)
    with pytest.raises(LookupError, match=r"^no such thing$"):
        await work_one(client, tx=tx, raise_failures=True)


async def test_drain_without_end_is_told(client: Client, tx: asyncpg.Connection) -> None:
    """Jobs that beget each other for ever fail the test, with the kinds that do so, and do not hang it."""
    await client.insert(Beget(1_000), tx=tx)

    with pytest.raises(
        AssertionError, match=r"^jobs must come to an end within 5 attempts, got 'beget' 6 times$"
    ):
        await drain(client, tx=tx, max_jobs=5)


async def test_client_that_cannot_work_is_told(room_url: str) -> None:
    """One without workers works nothing, and one that works by itself must not be helped."""
    async with stage("asyncpg", room_url) as tx:
        with pytest.raises(
            ConfigError, match=r"^client must have workers to work jobs, got none; make it with "
        ):
            await drain(Client(room_url), tx=tx)
        async with new_client(room_url, queues={"elsewhere": 1}) as working:
            with pytest.raises(ConfigError, match=r"^client must not work jobs while a test does, got '"):
                await work_one(working, tx=tx)


async def test_attempt_goes_the_whole_way(url: str, tx: asyncpg.Connection) -> None:
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


async def test_worker_that_breaks_the_transaction_leaves_it_usable(
    url: str, driver: AsyncpgDriver, any_tx: Any
) -> None:
    """What the database refused, in the worker's own words on the test's connection, costs that attempt and no more."""
    breaking = Workers()

    @breaking.add(kind="act")
    async def act(job: Job[Act]) -> None:
        await speak(any_tx, "UPDATE river_job SET tags = '{kept}' WHERE kind = 'nightly'")
        if job.args.what == "break":
            await speak(any_tx, "UPDATE river_job SET tags = '{lost}' WHERE kind = 'nightly'")
            await speak(any_tx, "SELECT 1 / 0")
        if job.args.what == "fail":
            raise LookupError

    client = new_client(url, workers=breaking, skip_unknown_job_check=True)
    marked = await client.insert(Nightly(), tx=any_tx)
    await client.insert(Act("break"), tx=any_tx)
    broken = await drain(client, tx=any_tx)
    untouched = await client.jobs.get(marked.job.id, tx=any_tx)
    await client.insert(Act("fail"), tx=any_tx)
    failed = await drain(client, tx=any_tx)

    assert broken.counts == failed.counts == Counts(failed=1)
    assert "division by zero" in str(broken.worked[0].error)
    assert untouched.tags == ()
    assert (await client.jobs.get(marked.job.id, tx=any_tx)).tags == ("kept",)
    assert await rows_left(driver) == 0


async def test_worker_may_end_what_the_test_began(url: str, driver: AsyncpgDriver) -> None:
    """A session that test and worker share may be committed by the worker, which ends savepoints made before its own."""
    async with stage("session", url) as session:
        sharing = Workers()

        @sharing.add(kind="act")
        async def act(job: Job[Act]) -> None:
            await session.commit()
            if job.args.what == "break":
                await speak(session, "SELECT 1 / 0")
            if job.args.what == "flush":
                session.add_all([Named(name="same"), Named(name="same")])
                await session.commit()
            if job.args.what == "leave open":
                session.add(Named(name="left"))
                await session.flush()

        client = new_client(url, workers=sharing)
        await session.run_sync(lambda session: Named.metadata.create_all(session.connection()))
        acts = [Act(what) for what in ("commit", "break", "leave open", "flush", "last")]
        await client.insert_many(acts, tx=session)

        drained = await drain(client, tx=session)

        assert drained.counts == Counts(completed=3, failed=2)
        assert [one.name for one in await session.scalars(select(Named))] == ["left"]
        await session.commit()
        assert await rows_left(driver) == 0


async def test_client_of_a_worker_is_as_free_as_in_production(url: str, tx: asyncpg.Connection) -> None:
    """Its words may come at once, and one that the database refuses does no harm, though all share one connection."""
    asking = Workers()

    @asking.add(kind="act")
    async def act(job: Job[Act]) -> None:
        if job.args.what != "x":
            return
        twice = InsertOpts(unique=UniqueOpts(by_args=True))
        with pytest.raises(DriverError):
            await job.client.insert_many([(Act("same"), twice), (Act("same"), twice)])
        await asyncio.gather(*(job.client.insert(Act(str(number))) for number in range(10)))
        await job.client.insert_many_fast([Act("copied")])
        await job.complete(tx=tx)

    client = new_client(url, workers=asking)
    await client.insert(Act(), tx=tx)

    assert (await drain(client, tx=tx)).counts == Counts(completed=12)
    names = [job.args["what"] for job in await require_many_inserted(client, *["act"] * 12, tx=tx)]
    assert sorted(names) == sorted(["x", *map(str, range(10)), "copied"])


async def test_plain_function_inserts_from_its_thread(url: str, tx: asyncpg.Connection) -> None:
    """By the event loop of `job.client`, which is the test's, into the test's transaction."""
    plain = Workers()

    @plain.add(kind="act")
    def act(job: Job[Act]) -> None:
        if job.args.what == "x":
            inserting = job.client.insert(Act("from a thread"))
            asyncio.run_coroutine_threadsafe(inserting, job.client.loop).result(GENEROUS)

    client = new_client(url, workers=plain)
    await client.insert(Act(), tx=tx)

    assert (await drain(client, tx=tx)).counts == Counts(completed=2)


async def test_client_speaks_as_before_when_a_test_has_worked(client: Client, tx: asyncpg.Connection) -> None:
    """Transaction and clock are the test's for the call alone, also of one that raises."""
    before = vars(client).copy()

    await work(client, Act(), tx=tx)
    await client.insert(Act("fail"), tx=tx)
    with pytest.raises(LookupError):
        await drain(client, tx=tx, raise_failures=True)

    assert vars(client) == before


async def test_jobs_of_a_committed_database_are_worked_as_well(room_url: str) -> None:
    """Without a transaction everything is committed, step by step, by a client that was started without queues."""
    async with new_client(room_url) as client:
        await client.insert_many([Beget(1), Act("fail")])

        drained = await drain(client)
        again = await work_again(client, drained.worked[-1].job)

    assert drained.counts == Counts(completed=2, failed=1)
    assert again.job.attempt == 1 + drained.worked[-1].job.attempt


ACTS = ("fine", "raise", "break", "break inside", "commit inside", "swallow")


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    whats=st.lists(st.sampled_from(ACTS), min_size=1, max_size=8),
    kind=st.sampled_from(["asyncpg", "psycopg"]),
)
async def test_transaction_is_usable_whatever_workers_do(url: str, whats: list[str], kind: str) -> None:
    """Of any jobs, in any order: each leaves what it wrote before its end, and one that broke the transaction nothing."""
    async with stage(kind, url) as tx:
        doing = Workers()

        @doing.add(kind="act", retry=ConstantRetryPolicy(DAY))
        async def act(job: Job[Act]) -> None:
            await write(job.id)
            match job.args.what:
                case "raise":
                    raise LookupError
                case "break" | "swallow":
                    with (
                        contextlib.nullcontext()
                        if job.args.what == "break"
                        else contextlib.suppress(Exception)
                    ):
                        await speak(tx, "SELECT 1 / 0")
                case "break inside":
                    async with tx.transaction():
                        await speak(tx, "SELECT 1 / 0")
                case "commit inside":
                    async with tx.transaction():
                        await write(job.id)

        async def write(id: int) -> None:
            await speak(tx, f"UPDATE river_job SET tags = array_append(tags, 'written') WHERE id = {id}")

        client = new_client(url, workers=doing)
        await client.insert_many([Act(what) for what in whats], tx=tx)

        drained = await drain(client, tx=tx)

        num_failed = sum(what in {"raise", "break", "break inside"} for what in whats)
        assert drained.counts == Counts(completed=len(whats) - num_failed, failed=num_failed)
        jobs = await require_many_inserted(client, *map(Act, whats), tx=tx)
        written = {"break": 0, "swallow": 0, "commit inside": 2}
        assert [len(job.tags) for job in jobs] == [written.get(what, 1) for what in whats]
