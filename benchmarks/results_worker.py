"""A worker in a process of its own. The output of each job is when it started, in ns of the monotonic clock."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import msgspec
from worker_process import WorkOrder

from millhand import Client, Config, Job, Workers


@dataclass(frozen=True)
class Ask:
    """A job whose result its caller awaits."""

    kind: ClassVar[str] = "ask"
    n: int


async def work(order: WorkOrder) -> None:
    workers = Workers()

    @workers.add(output=True)
    async def ask(_: Job[Ask]) -> int:
        return time.monotonic_ns()

    config = Config(
        heartbeat_interval=None, queues={"default": order.slots}, schema=order.schema, workers=workers
    )
    async with Client(order.url, config):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(work(msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkOrder)))
