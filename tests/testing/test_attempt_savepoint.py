"""The savepoint around an attempt in a test's transaction."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_jobs import DAY, Act, Named, Nightly, execute_sql, new_client, open_transaction, rows_left
from sqlalchemy import select

from millhand.core.retry import ConstantRetryPolicy
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.testing import Counts, drain, require_many_inserted


async def test_worker_that_breaks_the_transaction_leaves_it_usable(
    url: str, driver: AsyncpgDriver, any_tx: Any
) -> None:
    """A database error of the worker on the test's connection fails this attempt only."""
    breaking = Workers()

    @breaking.add(kind="act")
    async def act(job: Job[Act]) -> None:
        await execute_sql(any_tx, "UPDATE river_job SET tags = '{kept}' WHERE kind = 'nightly'")
        if job.args.what == "break":
            await execute_sql(any_tx, "UPDATE river_job SET tags = '{lost}' WHERE kind = 'nightly'")
            await execute_sql(any_tx, "SELECT 1 / 0")
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


@pytest.mark.slow
async def test_worker_may_commit_a_shared_session(url: str, driver: AsyncpgDriver) -> None:
    """The worker may commit a session that it shares with the test, which ends earlier savepoints."""
    async with open_transaction("session", url) as session:
        sharing = Workers()

        @sharing.add(kind="act")
        async def act(job: Job[Act]) -> None:
            await session.commit()
            if job.args.what == "break":
                await execute_sql(session, "SELECT 1 / 0")
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


ACTS = ("fine", "raise", "break", "break inside", "commit inside", "swallow")


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    whats=st.lists(st.sampled_from(ACTS), min_size=1, max_size=8),
    kind=st.sampled_from(["asyncpg", "psycopg"]),
)
async def test_transaction_stays_usable_after_every_attempt(url: str, whats: list[str], kind: str) -> None:
    """For any jobs in any order, each attempt leaves what it wrote, and one that broke the transaction leaves nothing."""
    async with open_transaction(kind, url) as tx:
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
                        await execute_sql(tx, "SELECT 1 / 0")
                case "break inside":
                    async with tx.transaction():
                        await execute_sql(tx, "SELECT 1 / 0")
                case "commit inside":
                    async with tx.transaction():
                        await write(job.id)

        async def write(id: int) -> None:
            await execute_sql(
                tx, f"UPDATE river_job SET tags = array_append(tags, 'written') WHERE id = {id}"
            )

        client = new_client(url, workers=doing)
        await client.insert_many([Act(what) for what in whats], tx=tx)

        drained = await drain(client, tx=tx)

        num_failed = sum(what in {"raise", "break", "break inside"} for what in whats)
        assert drained.counts == Counts(completed=len(whats) - num_failed, failed=num_failed)
        jobs = await require_many_inserted(client, *map(Act, whats), tx=tx)
        written = {"break": 0, "swallow": 0, "commit inside": 2}
        assert [len(job.tags) for job in jobs] == [written.get(what, 1) for what in whats]
