"""The driver that a test puts in place of a client's."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from sample_jobs import Act, new_client

from millhand.client import Client
from millhand.core.errors import DriverError
from millhand.core.insert_opts import InsertOpts
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.testing import Counts, drain, require_many_inserted, work


@pytest.mark.slow
async def test_job_client_runs_statements_concurrently(url: str, tx: asyncpg.Connection) -> None:
    """Statements of `job.client` may run at once on one connection, and a failed one does not affect the others."""
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


async def test_client_is_restored_after_a_call(client: Client, tx: asyncpg.Connection) -> None:
    """Transaction and clock are the test's during the call only, even if it raises."""
    before = vars(client).copy()

    await work(client, Act(), tx=tx)
    await client.insert(Act("fail"), tx=tx)
    with pytest.raises(LookupError):
        await drain(client, tx=tx, raise_failures=True)

    assert vars(client) == before
