"""The worker of the schedules' benchmark, in a process of its own: it starts jobs, and never leads."""

from __future__ import annotations

import asyncio
import sys

import msgspec
from worker_process import WorkOrder

from millhand import Client, Config, Workers

KIND = "scheduled"


async def work(order: WorkOrder) -> None:
    workers = Workers()

    @workers.add(kind=KIND)
    async def scheduled() -> None: ...

    config = Config(
        heartbeat_interval=None,
        leader_election=False,
        queues={"default": order.slots},
        schema=order.schema,
        workers=workers,
    )
    async with Client(order.url, config):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(work(msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkOrder)))
