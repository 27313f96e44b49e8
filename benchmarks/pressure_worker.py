"""A worker with default settings in a process of its own, which works no-op jobs until its input ends; see `pressure.py`."""

from __future__ import annotations

import asyncio
import sys

import msgspec
from worker_process import WorkOrder

from millhand import Client, Config, Job, QueueConfig, Workers
from millhand.bench.workload import Noop


async def work(order: WorkOrder) -> None:
    workers = Workers()

    @workers.add()
    async def noop(job: Job[Noop]) -> None: ...

    queues = {"default": QueueConfig(max_workers=order.slots)}
    async with Client(
        order.url, Config(heartbeat_interval=None, queues=queues, schema=order.schema, workers=workers)
    ):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(work(msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkOrder)))
