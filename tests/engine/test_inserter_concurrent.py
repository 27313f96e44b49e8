"""Calls that insert the same unique jobs at the same time, each in an order of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.core.clock import SystemClock
from millhand.core.insert_opts import InsertOpts, InsertResult, insert_params_many
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.limits.job_store import limited_job_insert_many

NUM_CALLS = 20
NUM_JOBS = 200
SEED = 20_261_203
Jobs = Sequence[tuple[Act, InsertOpts]]


@pytest.fixture
async def driver_of_many(harness: ClientHarness) -> AsyncIterator[AsyncpgDriver]:
    """A driver with a connection for each call."""
    driver = AsyncpgDriver(harness.url, pool_size=NUM_CALLS)
    await driver.open()
    yield driver
    await driver.close()


async def insert(way: str, client: Client, driver: AsyncpgDriver, jobs: Jobs) -> list[InsertResult]:
    if way == "alone":
        return await client.insert_many(jobs)
    async with driver.pool.begin() as tx:
        if way == "in a transaction":
            return await client.insert_many(jobs, tx=tx)
        # As the client of a started worker, which knows that some queue has a limit.
        return await tx.run(limited_job_insert_many(insert_params_many(jobs, now=SystemClock().now())))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["alone", "in a transaction", "while queues have limits"])
async def test_calls_with_the_same_unique_jobs_do_not_deadlock(
    harness: ClientHarness, driver_of_many: AsyncpgDriver, way: str
) -> None:
    """Twenty calls at once, in random orders, insert each job once, and all of them return all jobs in their own order."""
    rng = random.Random(SEED)  # noqa: S311 - the same in each run
    opts = InsertOpts(unique=UniqueOpts(by_args=True))
    jobs = [(Act(str(n)), opts) for n in range(NUM_JOBS)]
    orders = [rng.sample(jobs, NUM_JOBS) for _ in range(NUM_CALLS)]

    async with harness.client(Workers(), database=driver_of_many, queues={}) as client:
        async with asyncio.timeout(GENEROUS):
            answers = await asyncio.gather(
                *(insert(way, client, driver_of_many, order) for order in orders), return_exceptions=True
            )

    assert [answer for answer in answers if isinstance(answer, BaseException)] == []
    for order, results in zip(orders, answers, strict=True):
        assert [result.job.args["what"] for result in results] == [args.what for args, _ in order]
        new = [result.job.id for result in results if not result.unique_skipped_as_duplicate]
        assert new == sorted(new)
    assert len(await harness.rows()) == NUM_JOBS
