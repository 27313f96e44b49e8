"""
Run code around inserts and attempts: a hook is called at one moment, a middleware wraps an attempt.

Prints:

    begins: report for tenant acme
    works
    ends: success
    around: report took less than a minute: True
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from millhand import Client, Config, EventKind, Hook, InsertParams, Job, Middleware, Workers

workers = Workers()


@workers.add()
async def report() -> None:
    print("works")


class Tenant(Hook):
    async def insert_begin(self, params: InsertParams) -> InsertParams:
        return msgspec.structs.replace(params, encoded_metadata='{"tenant": "acme"}')

    async def work_begin(self, job: Job[Any]) -> None:
        print(f"begins: {job.kind} for tenant {job.metadata['tenant']}")

    async def work_end(self, job: Job[Any], error: BaseException | None) -> BaseException | None:
        print("ends: success" if error is None else f"ends: {error!r}")
        return error  # or another error, or None for success


class Stopwatch(Middleware):
    async def work(self, job: Job[Any], call_next: Callable[[], Awaitable[None]]) -> None:
        start = time.monotonic()
        await call_next()
        print(f"around: {job.kind} took less than a minute: {time.monotonic() - start < 60}")


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    config = Config(workers=workers, queues={"default": 10}, hooks=[Tenant()], middleware=[Stopwatch()])
    async with Client(url, config) as client:
        events = client.subscribe(EventKind.JOB_COMPLETED)
        await client.insert(report.args())
        await anext(events)


if __name__ == "__main__":
    asyncio.run(main())
