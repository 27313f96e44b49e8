"""Clients on a database of their own, for the tests of clients, engine and runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from empty_schema import empty_schema
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.event import Event
from millhand.core.job import JobId, JobRow
from millhand.core.worker import Workers
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.job import job_get_by_id, job_get_by_ids
from millhand.engine.subscription import Subscription

GENEROUS = 20.0
APPLICATION = "millhand_harness"
POOL_SIZE = 2


@dataclass(frozen=True)
class Act:
    """The args of most tests."""

    kind: ClassVar[str] = "act"
    what: str


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition` is true, which is called again in each turn of the event loop."""
    async with asyncio.timeout(GENEROUS):
        while not condition():  # noqa: ASYNC110 - what changes sends no event
            await asyncio.sleep(0)


class ClientHarness:
    """Builds clients on a migrated database, and works and reads its jobs."""

    def __init__(self, driver: AsyncpgDriver, url: str) -> None:
        self.driver = driver
        self.url = url

    def client(self, workers: Workers, *, database: Any = None, **settings: Any) -> Client:
        """
        Return a client, not started, that works `default` unless told otherwise.

        It has no heartbeat and does not become leader unless told: the leader's services cost each test a fifth of its
        time.
        """
        defaults = {"heartbeat_interval": None, "leader_election": False, "queues": {"default": 10}}
        settings = defaults | settings
        config = Config(workers=workers, **settings)
        # A small pool: each of the ten connections that a client may open costs the server as much as a small test.
        small = AsyncpgDriver(self.url_as(APPLICATION), config.schema, pool_size=POOL_SIZE)
        return Client(small if database is None else database, config)

    def url_as(self, application: str) -> str:
        """Return the URL with an application name, by which a test finds and ends its own connections."""
        return f"{self.url}{'&' if '?' in self.url else '?'}application_name={application}"

    async def work(self, client: Client, args: object) -> Event:
        """Insert a job and return its first event."""
        with client.subscribe() as events:
            await client.insert(args)
            return await self.next(events)

    async def next(self, events: Subscription[Event]) -> Event:
        return await asyncio.wait_for(anext(events), GENEROUS)

    async def row(self, id: JobId) -> JobRow:
        return await self.driver.pool.run(job_get_by_id(id))

    async def rows(self) -> Sequence[JobRow]:
        ids = [
            JobId(row["id"]) for row in await self.driver.pool.fetch("SELECT id FROM river_job ORDER BY id")
        ]
        return await self.driver.pool.run(job_get_by_ids(ids))

    async def execute(self, sql: str) -> None:
        await self.driver.pool.fetch(sql)

    async def insert_raw(self, kind: str, args: str) -> None:
        """Insert as another program would."""
        sql = "INSERT INTO river_job (kind, args, max_attempts) VALUES ($1, $2::text::jsonb, 25)"
        await self.driver.pool.fetch(sql, [kind, args])
        await self.announce()

    async def announce(self) -> None:
        """Wake the clients of `default`, as an insert does. A retry announces nothing, and would wait for a poll."""
        await self.execute("""SELECT pg_notify('public.river_insert', '{"queue": "default"}')""")

    def args_of_kind(self, name: str) -> object:
        @dataclass(frozen=True)
        class Args:
            kind: ClassVar[str] = name

        return Args()


@pytest.fixture
async def harness(driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[ClientHarness]:
    """The default schema of this process's database, emptied afterwards; the first job has the id 1."""
    # Sequences do not roll back.
    await driver.pool.fetch("SELECT setval('river_job_id_seq', 1, false)")
    yield ClientHarness(driver, postgres_url)
    await empty_schema(driver.pool, timeout_seconds=GENEROUS)
