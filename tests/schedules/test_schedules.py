"""Schedules of real clients: declared in code, run by the leader, and worked."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.core.periodic import every
from millhand.core.schedule import JobSchedule
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.schedules.store import schedule_list

DAY = timedelta(days=1)


@pytest.mark.slow
async def test_a_leader_runs_schedules_beside_periodic_jobs(harness: ClientHarness) -> None:
    """A missed run of a declared schedule, one that is set later, and a periodic job are each worked once."""
    workers, worked = Workers(), asyncio.Queue[str]()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        worked.put_nowait(job.args.what)

    declared = JobSchedule(id="declared", args=Act("declared"), interval=DAY)
    client = harness.client(
        workers,
        leader_election=True,
        periodic_jobs=[every(DAY, Act("periodic"), id="periodic", run_on_start=True)],
        schedules=[declared],
    )
    later = JobSchedule(id="later", args=Act("later"), interval=DAY, catch_up="once")
    async with asyncio.timeout(GENEROUS), client:
        first = await worked.get()
        await client.schedules.set(later)
        await harness.execute(
            "UPDATE millhand_schedule SET next_run_at = now() - interval '2 days' WHERE id = 'declared'"
        )
        await client.schedules.set(
            JobSchedule(id="third", args=Act("third"), interval=DAY)
        )  # wakes the leader
        second = await worked.get()
        await harness.execute("UPDATE millhand_schedule SET next_run_at = now() WHERE id = 'later'")
        await client.schedules.pause("third")  # wakes the leader
        third = await worked.get()
    rows = await harness.driver.pool.run(schedule_list())

    assert [first, second, third] == ["periodic", "declared", "later"]
    assert [(row.schedule.id, row.num_runs, row.declared is not None) for row in rows] == [
        ("declared", 1, True),
        ("later", 1, False),
        ("third", 0, False),
    ]
    assert all(row.next_run_at is not None and row.next_run_at > datetime.now(UTC) for row in rows)
    assert worked.empty()


async def test_a_client_without_the_table_does_not_start(harness: ClientHarness) -> None:
    """The error names the migration, and nothing is left running."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        """Work no job."""

    client = harness.client(workers, schedules=[JobSchedule(id="daily", args=Act("x"), cron="@daily")])
    await harness.execute("ALTER TABLE millhand_schedule RENAME TO hidden")
    try:
        with pytest.raises(ConfigError) as refused:
            await client.start()
    finally:
        await harness.execute("ALTER TABLE hidden RENAME TO millhand_schedule")

    assert str(refused.value) == (
        "schedules need version 11 of line 'millhand', got a database without it; run: millhand migrate up"
    )


class RecordedPool:
    """A pool that records the names of the statements that it runs."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self.names: list[str] = []

    async def run(self, query: Query[Any]) -> Any:
        self.names.append(query.name)
        return await self._pool.run(query)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class LateListener(AsyncpgDriver):
    """A driver whose listener connects when the test allows it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.may_connect = asyncio.Event()
        self.recorded_pool = RecordedPool(super().pool)

    @property
    def pool(self) -> Executor:
        return self.recorded_pool  # type: ignore[return-value]  # it is one, by __getattr__

    def listener(self) -> Any:
        listener = super().listener()
        connect = listener.connect

        async def connect_late() -> None:
            await self.may_connect.wait()
            await connect()

        listener.connect = connect_late  # type: ignore[method-assign]
        return listener


async def test_a_start_that_fails_before_its_listener_connects_leaves_nothing(harness: ClientHarness) -> None:
    """The watcher of the limits, which starts after the listener, does not start after the stop."""
    workers, driver = Workers(), LateListener(harness.url)

    @workers.add()
    async def act(job: Job[Act]) -> None:
        """Work no job."""

    schedules = [JobSchedule(id="daily", args=Act("x"), cron="@daily")]
    client = harness.client(workers, database=driver, schedules=schedules)
    await harness.execute("ALTER TABLE millhand_schedule RENAME TO hidden")
    try:
        starting = asyncio.create_task(client.start())
        async with asyncio.timeout(GENEROUS):
            while client._engine is None or not client._engine._is_stopping:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
        driver.may_connect.set()
        with pytest.raises(ConfigError):
            await starting
    finally:
        await harness.execute("ALTER TABLE hidden RENAME TO millhand_schedule")

    assert "limit_list" not in driver.recorded_pool.names


@pytest.mark.parametrize(
    ("schedules", "text"),
    [
        (
            [JobSchedule(id="d1", args=Act("x"), cron="@daily")] * 2,
            "ids of schedules must differ, got 'd1' twice",
        ),
        (["x"], "schedules must be instances of JobSchedule, got 'x'"),
    ],
)
def test_config_refuses_bad_schedules(schedules: list[JobSchedule], text: str) -> None:
    """Ids differ, and each is a JobSchedule."""
    with pytest.raises(ConfigError) as refused:
        Config(schedules=schedules)

    assert str(refused.value) == text
