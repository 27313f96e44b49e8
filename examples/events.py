"""
Subscribe to the events of this client's jobs and queues. An event is sent after its row was written.

Prints:

    job_completed   double: 42
    job_failed      fail: RuntimeError: not today
    queue_paused    default
    queue_resumed   default
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import ClassVar

from millhand import Client, Config, Event, InsertOpts, Job, Workers

workers = Workers()


@dataclass(frozen=True)
class Double:
    kind: ClassVar[str] = "double"
    number: int


@workers.add()
async def double(job: Job[Double]) -> None:
    job.record_output(2 * job.args.number)  # any JSON value; stored with the outcome


@workers.add()
async def fail() -> None:
    raise RuntimeError("not today")


def show(event: Event) -> None:
    job = event.job
    text = event.queue if job is None else f"{job.kind}: {job.errors[-1].error if job.errors else job.output}"
    print(f"{event.kind:<15} {text}")


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    config = Config(workers=workers, queues={"default": 10})
    async with Client(url, config) as client:
        with client.subscribe() as events:  # without arguments: every kind
            for job in (Double(21), (fail.args(), InsertOpts(max_attempts=1))):
                await client.insert_many([job])
                show(await anext(events))
            for change in (client.queues.pause, client.queues.resume):
                await change("default")
                show(await anext(events))


if __name__ == "__main__":
    asyncio.run(main())
