"""
Insert a job, and work it.

Prints:

    hello World, attempt 1 of 25
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import ClassVar

from millhand import Client, Config, EventKind, Job, Workers


@dataclass(frozen=True)
class Greet:
    kind: ClassVar[str] = "greet"
    name: str


workers = Workers()


@workers.add()
async def greet(job: Job[Greet]) -> None:
    print(f"hello {job.args.name}, attempt {job.attempt} of {job.max_attempts}")


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    config = Config(workers=workers, queues={"default": 10})
    async with Client(url, config) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            await client.insert(Greet("World"))
            await anext(events)


if __name__ == "__main__":
    asyncio.run(main())
