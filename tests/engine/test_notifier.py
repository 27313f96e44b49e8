"""Notifications and due times reach the producers, and lost listeners raise."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from client_harness import Act, ClientHarness
from millhand.core.errors import ConnectionLost, JobSnooze
from millhand.core.event import EventKind
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver


@pytest.mark.slow
async def test_each_of_several_snoozes_is_fetched_when_it_is_due(harness: ClientHarness) -> None:
    """A job that is due after another one does not wait for the next poll."""
    workers = Workers()
    worked: list[str] = []

    @workers.add()
    async def act(job: Job[Act]) -> None:
        worked.append(job.args.what)
        if worked.count(job.args.what) == 1:
            raise JobSnooze(timedelta(milliseconds=10 if job.args.what == "sooner" else 300))

    async with harness.client(workers, fetch_poll_interval=timedelta(minutes=1)) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            await client.insert_many([Act("sooner"), Act("later")])
            emitted = [(await harness.next(events)).job for _ in range(2)]

    assert [row.args["what"] for row in emitted if row is not None] == ["sooner", "later"]


@pytest.mark.parametrize("word", ["ping", "listen"])
async def test_listener_on_a_closed_connection_raises(harness: ClientHarness, word: str) -> None:
    """A statement between the loss of a connection and its event raises ConnectionLost."""
    async with asyncpg.create_pool(harness.url, min_size=0, max_size=1) as pool:
        driver = AsyncpgDriver(pool)
        await driver.open()
        listener = driver.listener()
        await listener.connect()
        connection = listener._connection
        assert connection is not None
        connection.terminate()

        with pytest.raises(ConnectionLost):
            await (listener.ping() if word == "ping" else listener.listen("river_insert", print))
        await listener.close()
        await driver.close()
    await asyncio.sleep(0)
