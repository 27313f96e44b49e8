"""A SyncClient awaits the results of jobs in its thread, by polls alone."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.core.errors import (
    ConfigError,
    JobCancel,
    JobCancelled,
    JobFailed,
    NotFound,
    TooManyWaits,
    WaitTimeout,
)
from millhand.core.insert_opts import InsertOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.awaited_jobs import NUM_AWAITED_MAX
from millhand.sync_client import SyncClient
from proxy import proxied

WAIT = timedelta(seconds=GENEROUS)
ONCE = InsertOpts(max_attempts=1)


def workers() -> Workers:
    made = Workers()

    @made.add(output=True)
    def act(job: Job[Act]) -> str:
        match job.args.what:
            case "fail":
                raise ValueError("boom")
            case "cancel":
                raise JobCancel
        return job.args.what.upper()

    return made


@pytest.mark.slow
async def test_sync_client_gets_each_end(harness: ClientHarness) -> None:
    """The output comes back decoded, and discarded and cancelled jobs raise, as from `Client`."""

    def wait(client: SyncClient) -> list[Any]:
        with pytest.raises(JobFailed, match=r"got discarded after 1 attempt: ValueError: boom$"):
            client.insert_and_wait(Act("fail"), ONCE, timeout=WAIT)
        with pytest.raises(JobCancelled):
            client.insert_and_wait(Act("cancel"), timeout=WAIT)
        ids = [one.job.id for one in client.insert_many([Act("b"), (Act("fail"), ONCE)])]
        output: str = client.insert_and_wait(Act("a"), returns=str, timeout=WAIT)
        return [output, *(row.state for row in client.jobs.wait_many([*ids, ids[0]], timeout=WAIT))]

    async with harness.client(workers()):
        with SyncClient(harness.url) as client:
            got = await asyncio.to_thread(wait, client)

    assert got == ["A", "completed", "discarded", "completed"]


async def test_sync_wait_that_cannot_succeed_raises(harness: ClientHarness) -> None:
    """A timeout, a missing job, too many jobs and a transaction raise, and the timeout leaves the job alone."""

    def wait(client: SyncClient) -> int:
        with pytest.raises(WaitTimeout) as late:
            client.insert_and_wait(Act("a"), timeout=timedelta(seconds=0.01))
        with pytest.raises(NotFound):
            client.jobs.wait(999, timeout=WAIT)
        with pytest.raises(TooManyWaits):
            client.jobs.wait_many(range(NUM_AWAITED_MAX + 1), timeout=WAIT)
        in_transaction: Any = client.insert_and_wait
        with pytest.raises(ConfigError, match=r"^insert_and_wait must be outside of a transaction, got one"):
            in_transaction(Act("a"), timeout=WAIT, tx=object())
        return late.value.ids[0]

    with SyncClient(harness.url) as client:
        id = await asyncio.to_thread(wait, client)

    assert [(row.id, row.state) for row in await harness.rows()] == [(id, "available")]


@pytest.mark.slow
async def test_sync_wait_survives_a_lost_database(harness: ClientHarness) -> None:
    """A wait through an outage of the database gets the output of the job."""
    async with proxied(harness.url) as proxy, harness.client(workers()) as worker:
        client = SyncClient(proxy.url)
        # In a thread, because the proxy is in this event loop.
        await asyncio.to_thread(client.start)
        id = (await worker.insert(Act("a"))).job.id
        proxy.refuse()
        proxy.cut()
        waiting = asyncio.create_task(asyncio.to_thread(client.jobs.wait, id, timeout=WAIT))
        await worker.jobs.wait(id, timeout=WAIT)
        proxy.restore()
        row = await waiting
        await asyncio.to_thread(client.stop)

    assert row.output == "A"
