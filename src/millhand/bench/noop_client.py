"""Millhand as a benchmark uses it: through its public client, like any program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from millhand.bench.workload import Noop, Tally
from millhand.client import Client
from millhand.core.config import Config, QueueConfig
from millhand.core.event import EventKind, JobEvent
from millhand.core.hooks import Middleware
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.subscription import Subscription


class NoopInserter:
    """Inserts no-op jobs through a client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def insert(self, n: int) -> None:
        await self._client.insert(Noop(n))

    async def insert_many(self, numbers: Sequence[int]) -> None:
        await self._client.insert_many([Noop(n) for n in numbers])


@contextlib.asynccontextmanager
async def noop_inserter(url: str, schema: str) -> AsyncIterator[NoopInserter]:
    async with Client(url, Config(schema=schema)) as client:
        yield NoopInserter(client)


@contextlib.asynccontextmanager
async def noop_worker(
    url: str,
    schema: str,
    slots: int,
    tally: Tally,
    *,
    keep_completed: bool = True,
    log_completed_jobs: bool = False,
    middleware: Sequence[Middleware] = (),
) -> AsyncIterator[None]:
    """Work no-op jobs with a client of default settings but for these and the heartbeat; it also leads and maintains."""
    workers = Workers()

    @workers.add()
    async def noop(job: Job[Noop]) -> None:
        tally.begin(job.args.n)

    config = Config(
        heartbeat_interval=None,
        keep_completed=keep_completed,
        log_completed_jobs=log_completed_jobs,
        middleware=middleware,
        queues={"default": QueueConfig(max_workers=slots)},
        schema=schema,
        workers=workers,
    )
    client = Client(url, config)
    completions = client.subscribe(EventKind.JOB_COMPLETED, buffer_size=max(tally.num_jobs, 1))
    async with asyncio.TaskGroup() as group:
        group.create_task(_count(completions, tally))
        async with client:  # closing it ends the subscription, and with it the task
            yield


async def _count(completions: Subscription[JobEvent], tally: Tally) -> None:
    async for _ in completions:
        tally.complete()
