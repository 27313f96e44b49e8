"""A worker with limited jobs in a process of its own, which works until its input ends and then writes its journal."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import msgspec
from limits_queue import QUEUE, Push
from worker_process import WorkOrder

from millhand import Client, Config, Job, QueueConfig, Workers


class LimitedOrder(WorkOrder, frozen=True, kw_only=True):
    """What to work, how long each job takes, and the file for the journal."""

    job_seconds: float
    journal: str


class Worked(msgspec.Struct, frozen=True, array_like=True):
    """When a job started and ended, in ns of the monotonic clock, and its key."""

    started_ns: int
    ended_ns: int
    key: int


async def work(order: LimitedOrder) -> None:
    workers = Workers()
    journal: list[Worked] = []

    @workers.add()
    async def push(job: Job[Push]) -> None:
        began = time.monotonic_ns()
        await asyncio.sleep(order.job_seconds)
        journal.append(Worked(began, time.monotonic_ns(), job.args.key))

    config = Config(
        heartbeat_interval=None,
        queues={QUEUE: QueueConfig(max_workers=order.slots)},
        schema=order.schema,
        workers=workers,
    )
    async with Client(order.url, config):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)
    await asyncio.to_thread(Path(order.journal).write_bytes, msgspec.json.encode(journal))


if __name__ == "__main__":
    asyncio.run(work(msgspec.json.decode(sys.stdin.buffer.readline(), type=LimitedOrder)))
