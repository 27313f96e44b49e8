"""
Stop in order: running jobs get time to end, then they are interrupted and returned. That attempt does not count.

Prints:

    first client: working on it, attempt 1
    first client: interrupted, cleaning up
    the job is available, attempt 0
    second client: working on it, attempt 1
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand import Client, Config, EventKind, Job, Workers


@dataclass(frozen=True)
class Render:
    kind: ClassVar[str] = "render"


def config(name: str, seconds: float, begun: asyncio.Event) -> Config:
    workers = Workers()

    @workers.add()
    async def render(job: Job[Render]) -> None:
        print(f"{name} client: working on it, attempt {job.attempt}")
        begun.set()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            print(f"{name} client: interrupted, cleaning up")
            raise  # required: otherwise the attempt counts as completed

    return Config(workers=workers, queues={"default": 10}, soft_stop_timeout=timedelta(seconds=0.2))


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    begun = asyncio.Event()
    async with Client(url, config("first", 60, begun)) as client:
        id = (await client.insert(Render())).job.id
        await begun.wait()  # leaving the block stops the client

    async with Client(url) as client:
        job = await client.jobs.get(id)
    print(f"the job is {job.state}, attempt {job.attempt}")
    client = Client(url, config("second", 0, asyncio.Event()))
    events = client.subscribe(EventKind.JOB_COMPLETED)  # before the client starts
    async with client:
        await anext(events)


if __name__ == "__main__":
    asyncio.run(main())
