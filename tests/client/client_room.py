"""A client on a database of its own, and what the tests of this folder ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from millhand.client import Client
from millhand.config import Config
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.event import Event
from millhand.job import JobId, JobRow
from millhand.runtime.subscription import Subscription
from millhand.store.job import job_get_by_id, job_get_by_ids
from millhand.worker import Workers

GENEROUS = 20.0
APPLICATION = "millhand_room"


@dataclass(frozen=True)
class Act:
    """The args of most tests."""

    kind: ClassVar[str] = "act"
    what: str


class Room:
    """A migrated database, empty at the beginning of each test."""

    def __init__(self, driver: AsyncpgDriver, url: str) -> None:
        self.driver = driver
        self.url = url

    def client(self, workers: Workers, *, database: Any = None, **settings: Any) -> Client:
        """Return a client, not started, that works `default` unless told otherwise."""
        settings = {"queues": {"default": 10}, **settings}
        return Client(
            self.url_as(APPLICATION) if database is None else database, Config(workers=workers, **settings)
        )

    def url_as(self, application: str) -> str:
        """Return the URL by which the server knows who comes: a test can see, and kill, its own connections alone."""
        return f"{self.url}{'&' if '?' in self.url else '?'}application_name={application}"

    async def work(self, client: Client, args: object) -> Event:
        """Insert a job and return the first event that is told."""
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
        await self.execute("""SELECT pg_notify('public.river_insert', '{"queue": "default"}')""")

    def args_of_kind(self, name: str) -> object:
        @dataclass(frozen=True)
        class Args:
            kind: ClassVar[str] = name

        return Args()
