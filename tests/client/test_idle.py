"""The statements of an idle client: counted by name, so that an added poll fails a test."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from client_harness import Act, ClientHarness
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.asyncpg_listener import AsyncpgListener
from millhand.db.driver.protocol import Executor
from millhand.testing import Probe

pytestmark = pytest.mark.slow

# A fetch a second, with jitter; one or two more after a slow one.
FETCHES = ("job_get_available", "job_get_available_after", "job_get_available_counted")
FETCH_PERIOD = 1.05
# The seconds between two statements of an idle client that holds both leader roles and is alone.
PERIODS = {
    "client_get_unregistered": 20.0,
    "client_heartbeat": 5.0,
    # Once an hour, as nothing was discarded: the statement that begins the history's pass would show it.
    "dead_job_begin": 3_600.0,
    "dead_job_copy": 3_600.0,
    "dead_job_copy_settings": 3_600.0,
    "dead_job_delete_before": 3_600.0,
    "dead_job_delete_retried": 3_600.0,
    "dead_job_end": 3_600.0,
    # A pass of the history's writer comes each minute while there are jobs, and each second minute without.
    "history_begin": 120.0,
    # Once an hour: of three tables, and of all others.
    "history_delete_intervals": 1_200.0,
    "history_delete_records": 3_600.0,
    "job_delete_before": 30.0,
    "job_get_stranded": 30.0,
    "job_get_stuck_beside_clients": 30.0,
    "job_get_stuck_of_client": 60.0,
    "job_schedule": 5.0,
    "leader_attempt_reelect river": 5.0,
    "leader_attempt_reelect periodic": 5.0,
    "ping": 20.0,
    "queue_get": 60.0,
}
# River's own clients make 2.0 to 2.6 transactions a second when idle.
TRANSACTIONS_A_SECOND = 2.0
SECONDS = 22.0


class CountingPool:
    """A pool that counts statements by name."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self.counts: Counter[str] = Counter()

    async def run(self, query: Any) -> Any:
        self.counts[_name(query)] += 1
        return await self._pool.run(query)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class CountingListener(AsyncpgListener):
    """A listener whose pings are counted with the pool's statements."""

    counts: Counter[str]

    async def ping(self) -> None:
        self.counts["ping"] += 1
        await super().ping()


class CountingDriver(AsyncpgDriver):
    """A driver with a counting pool and a counting listener."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.counting_pool = CountingPool(super().pool)

    @property
    def pool(self) -> Executor:
        return self.counting_pool  # type: ignore[return-value]  # it is one, by __getattr__

    def listener(self) -> AsyncpgListener:
        listener = CountingListener(self._connect, self._release, self.schema)
        listener.counts = self.counting_pool.counts
        return listener


def _name(query: Any) -> str:
    if query.name != "leader_attempt_reelect":
        return str(query.name)
    return f"{query.name} {'river' if ('leader_table', 'river_leader') in query.fragments else 'periodic'}"


def test_periods_allow_two_transactions_a_second() -> None:
    """An idle client that holds both leader roles makes at most as many transactions as an idle River client."""
    rates = [1 / period for period in (FETCH_PERIOD, *PERIODS.values())]

    assert sum(rates) <= TRANSACTIONS_A_SECOND


async def test_idle_leader_makes_only_the_statements_of_the_table(harness: ClientHarness) -> None:
    """A client that is alone, leads and has no job to work makes no other statement, and none more often."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    driver = CountingDriver(harness.url)
    client = harness.client(workers, database=driver)
    # A process that an earlier test killed may have had its heartbeat under way.
    await harness.execute("DELETE FROM millhand_client")
    async with client:
        engine = client._engine
        assert engine is not None
        heartbeat = engine.heartbeat
        probe = Probe(heartbeat)
        loop = asyncio.get_running_loop()
        await probe.wait("heartbeat")
        # As if no client had started within the last minute.
        await harness.execute("UPDATE millhand_client SET started_at = started_at - interval '1 hour'")
        rows = await harness.driver.pool.fetch("SELECT id, pid, started_at FROM millhand_client")
        assert [row["id"] for row in rows] == [client.id], rows
        heartbeat._started_at = rows[0]["started_at"]
        await probe.wait("heartbeat")
        await probe.wait("heartbeat")
        driver.counting_pool.counts.clear()
        began = loop.time()
        while loop.time() - began < SECONDS:
            await probe.wait("heartbeat")
        seconds, counts = loop.time() - began, dict(driver.counting_pool.counts)

    num_fetches = sum(counts.pop(name, 0) for name in FETCHES)
    assert num_fetches <= 2 * seconds
    assert set(counts) <= set(PERIODS)
    too_many = {name: count for name, count in counts.items() if count > seconds / PERIODS[name] + 1}
    assert too_many == {}
