"""Lines of migrations that go down and up beside a running worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from cli_runner import millhand
from client_harness import GENEROUS, Act, until
from lent_schema import new_schema_driver
from millhand.client import Client
from millhand.core.config import Config, QueueConfig
from millhand.core.errors import DriverError
from millhand.core.insert_opts import InsertOpts
from millhand.core.limit import Limit
from millhand.core.schedule import JobSchedule
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.flows.flow import Flow

LIMITED, PLAIN = "by_limit", "plain"
ONE = Limit(at_once=1)
HALTING = Limit(at_once=1, in_order=True, halt=True)
NIGHTLY = JobSchedule(id="nightly", cron="0 3 * * *", args=Act("nightly"))


@pytest.fixture
async def own_driver(postgres_url: str) -> AsyncIterator[AsyncpgDriver]:
    """A driver, open, on a migrated schema that is dropped afterwards."""
    driver = await new_schema_driver(postgres_url)
    yield driver
    await driver.pool.fetch(f"DROP SCHEMA {driver.schema} CASCADE")
    await driver.close()


class Fleet:
    """A worker of a limited and a plain queue, and the commands of an operator beside it."""

    def __init__(self, driver: AsyncpgDriver, url: str) -> None:
        self.driver = driver
        self.gate = asyncio.Event()
        self.most = self.num_done = self.num_running = 0
        self._url = url

    def client(self, limit: Limit = ONE) -> Client:
        workers = Workers()

        @workers.add(kind="act")
        async def act(_job: Job[Act]) -> None:
            self.num_running += 1
            self.most = max(self.most, self.num_running)
            await self.gate.wait()
            self.num_running -= 1
            self.num_done += 1

        config = Config(
            client_heartbeat_interval=timedelta(milliseconds=100),
            fetch_poll_interval=timedelta(milliseconds=100),
            heartbeat_interval=None,
            queues={LIMITED: QueueConfig(max_workers=4, limit=limit), PLAIN: 4},
            schedules=[NIGHTLY],
            schema=self.driver.schema,
            soft_stop_timeout=timedelta(0),
            workers=workers,
        )
        return Client(self._url, config)

    async def migrate(self, direction: str, line: str = "millhand", target: int | None = None) -> None:
        options = [
            "--schema",
            self.driver.schema,
            "--line",
            line,
            *(["--yes"] if direction == "down" else []),
        ]
        version = [] if target is None else ["--target-version", target]
        result = await millhand("migrate", direction, *options, *version)
        assert result.code == 0, result.err

    async def fetch(self, sql: str) -> list[object]:
        """Return the first column of the rows of a statement, or none if a table of it is gone."""
        with contextlib.suppress(DriverError):
            return [next(iter(row.values())) for row in await self.driver.pool.fetch(sql)]
        return []

    async def until(self, sql: str, found: list[object]) -> None:
        """Wait until a statement returns `found`."""
        got: list[object] = []
        try:
            async with asyncio.timeout(GENEROUS):
                while (got := await self.fetch(sql)) != found:  # noqa: ASYNC110 - what changes sends no event
                    await asyncio.sleep(0)
        except TimeoutError:
            raise AssertionError(f"{sql} must return {found}, got {got}") from None

    def table(self, name: str) -> str:
        return f'"{self.driver.schema}".{name}'

    async def until_states(self, *states: str) -> None:
        """Wait until the jobs have these states, by id."""
        await self.until(f"SELECT state::text FROM {self.table('river_job')} ORDER BY id", [*states])


@pytest.fixture
def fleet(own_driver: AsyncpgDriver, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    return Fleet(own_driver, postgres_url)


async def held_jobs(fleet: Fleet, client: Client) -> None:
    """Start a limited job, a plain one and a task of a flow, which wait for the gate."""
    await client.insert(Act("a"), InsertOpts(queue=LIMITED))
    await client.insert(Act("b"), InsertOpts(queue=PLAIN))
    flow = Flow("one")
    flow.add(Act("c"), InsertOpts(queue=PLAIN))
    await client.insert_flow(flow)
    await until(lambda: fleet.num_running == 3)


async def requires_everything_again(fleet: Fleet, client: Client) -> None:
    """Wait until the client, its limit and its schedule are in the database, and work jobs by the limit."""
    await fleet.until(f"SELECT id FROM {fleet.table('millhand_client')}", [client.id])
    await fleet.until(f"SELECT queue FROM {fleet.table('millhand_limit')}", [LIMITED])
    await fleet.until(f"SELECT id FROM {fleet.table('millhand_schedule')}", ["nightly"])
    fleet.gate.clear()
    done, fleet.most = fleet.num_done, 0
    for what in "defg":
        await client.insert(Act(what), InsertOpts(queue=LIMITED))
    await until(lambda: fleet.num_running > 0)
    fleet.gate.set()
    await until(lambda: fleet.num_done == done + 4)
    assert fleet.most == 1
    await fleet.until(f"SELECT count(*) FROM {fleet.table('millhand_limited_job')}", [0])
    await fleet.until(f"SELECT sum(running)::int FROM {fleet.table('millhand_limit_partition')}", [0])


@pytest.mark.slow
async def test_worker_recovers_after_its_line_went_down_and_up(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """If line `millhand` goes down and up while attempts run, their outcomes are written and all is declared again."""
    async with fleet.client() as client:
        await held_jobs(fleet, client)
        await fleet.migrate("down", target=0)
        await fleet.migrate("up")
        fleet.gate.set()

        await fleet.until_states("completed", "completed", "completed")
        await requires_everything_again(fleet, client)

    assert "completion refused" not in caplog.messages


@pytest.mark.slow
async def test_worker_writes_outcomes_while_the_tables_are_gone(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """Outcomes of limited jobs and of tasks are written while the tables of limits and flows are gone."""
    async with fleet.client() as client:
        await held_jobs(fleet, client)
        await fleet.migrate("down", target=0)
        fleet.gate.set()

        await fleet.until_states("completed", "completed", "completed")
        await fleet.migrate("up")
        await requires_everything_again(fleet, client)

    assert "completion refused" not in caplog.messages


@pytest.mark.slow
async def test_no_job_starts_beyond_a_declared_limit_while_its_table_is_gone(fleet: Fleet) -> None:
    """Jobs of a queue whose limit code declares wait while the table of limits is gone; those of others start."""
    async with fleet.client() as client:
        await held_jobs(fleet, client)
        await fleet.migrate("down", target=0)
        watcher = client._engine.rules.watcher  # type: ignore[union-attr]
        await until(lambda: not watcher.limits)
        for _ in range(3):
            await client.insert(Act("limited"), InsertOpts(queue=LIMITED))
        await client.insert(Act("plain"), InsertOpts(queue=PLAIN))
        await until(lambda: fleet.num_running == 4)
        fleet.gate.set()
        await fleet.until_states(*["completed"] * 3, *["available"] * 3, "completed")
        assert fleet.most == 4

        await fleet.migrate("up")
        await fleet.until_states(*["completed"] * 7)
        await requires_everything_again(fleet, client)


@pytest.mark.slow
async def test_worker_recovers_after_halts_went_down_and_up(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """If only version 14 goes down, outcomes are written without it; after up, slots are released and halts declared."""
    async with fleet.client(HALTING) as client:
        await held_jobs(fleet, client)
        await fleet.migrate("down", target=13)
        fleet.gate.set()
        await fleet.until_states("completed", "completed", "completed")
        await fleet.migrate("up")

        await fleet.until(f"SELECT halt FROM {fleet.table('millhand_limit')}", [True])
        await requires_everything_again(fleet, client)

    assert "completion refused" not in caplog.messages


@pytest.mark.slow
async def test_worker_recovers_after_both_lines_went_down_and_up(fleet: Fleet) -> None:
    """If all tables go and come again while attempts run, the worker registers and declares anew, and works new jobs."""
    async with fleet.client() as client:
        await held_jobs(fleet, client)
        await fleet.migrate("down", target=0)
        await fleet.migrate("down", "main", 0)
        fleet.gate.set()
        await until(lambda: fleet.num_running == 0)
        await fleet.migrate("up", "main")
        await fleet.migrate("up")

        await requires_everything_again(fleet, client)
        await fleet.until(f"SELECT name FROM {fleet.table('river_queue')} ORDER BY name", [LIMITED, PLAIN])
