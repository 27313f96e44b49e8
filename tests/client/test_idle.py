"""What a client costs the database that has nothing to do: counted, so that a poll that is added shows here."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from client_room import Act, Room

from millhand.driver.asyncpg import AsyncpgDriver, AsyncpgListener
from millhand.driver.protocol import Executor
from millhand.job import Job
from millhand.runtime.client_heartbeat import ClientHeartbeat
from millhand.testing import Probe
from millhand.worker import Workers

pytestmark = pytest.mark.slow

NUM_REPORTS = 4
# A fetch a second, and one or two more where a slow one has shown that something is in the way.
FETCHES = ("job_get_available", "job_get_available_above")
# All else that a client at rest, which leads, may say in the sixteen seconds of four reports: each of these is asked every
# twenty seconds, or more seldom.
SELDOM = {
    "client_get_unregistered",
    "client_get_unknown_kinds",
    "job_delete_before",
    "job_get_stranded",
    "job_get_stuck_beside_clients",
    "job_get_stuck_of_client",
    "job_schedule",
    "ping",
    "queue_get",
}


class CountingPool:
    """A pool that counts statements by their names."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self.said: Counter[str] = Counter()

    async def run(self, query: Any) -> Any:
        self.said[query.name] += 1
        return await self._pool.run(query)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class CountingListener(AsyncpgListener):
    """A listener whose pings are counted with the pool's statements."""

    said: Counter[str]

    async def ping(self) -> None:
        self.said["ping"] += 1
        await super().ping()


class CountingDriver(AsyncpgDriver):
    """A driver of which one can see how often it was asked what."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.counting_pool = CountingPool(super().pool)

    @property
    def pool(self) -> Executor:
        return self.counting_pool  # type: ignore[return-value]  # it is one, by __getattr__

    def listener(self) -> AsyncpgListener:
        listener = CountingListener(self._connect, self._give_back, self.schema)
        listener.said = self.counting_pool.said
        return listener


async def test_client_at_rest_says_little(room: Room) -> None:
    """
    A worker that is alone, and leads, reports every four seconds, and says all that leaders say in these reports.

    Beside a fetch a second nothing is asked more often than every twenty seconds.
    """
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    driver = CountingDriver(room.url)
    client = room.client(workers, database=driver)
    async with client:
        engine = client._engine
        assert engine is not None
        reporter: ClientHeartbeat = engine.leadership.reporter
        probe = Probe(reporter)
        loop = asyncio.get_running_loop()
        # What a leader does at first is done, and nobody has come in the last minute, as far as the rows tell.
        await probe.wait("reported")
        await probe.wait("reported")
        await room.execute("UPDATE millhand_client SET started_at = started_at - interval '1 hour'")
        reporter._started_at = (await room.driver.pool.fetch("SELECT started_at FROM millhand_client"))[0][
            "started_at"
        ]
        await probe.wait("reported")
        driver.counting_pool.said.clear()
        began = loop.time()
        for _ in range(NUM_REPORTS):
            await probe.wait("reported")
        seconds, said = loop.time() - began, dict(driver.counting_pool.said)

    num_fetches = sum(said.pop(name, 0) for name in FETCHES)
    assert said.pop("client_report_on_errands") == NUM_REPORTS
    assert seconds >= NUM_REPORTS * 4
    assert num_fetches <= 2 * seconds
    assert set(said) <= SELDOM
    assert all(number == 1 for number in said.values()), said
