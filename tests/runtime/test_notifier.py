"""Notifications and due times reach the producers, and lost listeners raise."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import asyncpg
import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.errors import ConnectionLost, JobSnooze
from millhand.event import EventKind
from millhand.job import Job
from millhand.testing.probe import Probe
from millhand.worker import Workers
from proxy import proxied

END_LISTENERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND query LIKE 'LISTEN %'"
)


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


@pytest.mark.slow  # it waits for a second attempt
async def test_lost_listener_connects_again_once_the_database_answers(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """After many failures its pause is long. An answer to a statement ends the pause, so the outage ends soon after."""
    caplog.set_level(logging.INFO, "millhand.runtime.outage")
    caplog.set_level(logging.DEBUG, "millhand.runtime.notifier")
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    async with proxied(harness.url) as proxy:
        driver = AsyncpgDriver(proxy.url, pool_size=2)
        async with harness.client(
            workers, database=driver, fetch_poll_interval=timedelta(milliseconds=50)
        ) as client:
            notifier = client._engine._notifier  # type: ignore[union-attr]
            probe = Probe(notifier)  # type: ignore[arg-type]
            notifier._num_failures = 30  # type: ignore[union-attr]
            proxy.refuse()
            await harness.driver.pool.fetch(END_LISTENERS)
            async with asyncio.timeout(GENEROUS):
                while not any(record.msg == "listener not connected" for record in caplog.records):  # noqa: ASYNC110 - the log has no event
                    await asyncio.sleep(0.01)
            proxy.mend()
            await probe.wait("connected", timeout_seconds=5.0)

    shown = [record.msg for record in caplog.records if record.levelno >= logging.INFO]
    assert shown == ["database unreachable", "database back"]


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
