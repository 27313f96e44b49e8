"""
Run jobs on a schedule: the leader inserts them, and any client with their worker works them.

Prints:

    tick 1
    tick 2
    tick 3
    the digest waits for three in the morning in Berlin
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand import Client, Config, EventKind, Job, Workers, cron, every

workers = Workers()


@dataclass(frozen=True)
class Tick:
    kind: ClassVar[str] = "tick"
    number: int


ticks = map(Tick, (1, 2, 3))


@workers.add()
async def tick(job: Job[Tick]) -> None:
    print(f"tick {job.args.number}")


@workers.add()
async def digest() -> None:
    print("the digest is sent")


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    periodic_jobs = [
        # After the third tick, None skips the run.
        every(timedelta(seconds=0.2), lambda: next(ticks, None), id="tick", run_on_start=True),
        cron("0 3 * * *", digest.args(), id="digest", timezone="Europe/Berlin"),
    ]
    config = Config(workers=workers, queues={"default": 10}, periodic_jobs=periodic_jobs)
    async with Client(url, config) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            for _ in range(3):
                await anext(events)
            client.remove_periodic_job("tick")
    print("the digest waits for three in the morning in Berlin")


if __name__ == "__main__":
    asyncio.run(main())
