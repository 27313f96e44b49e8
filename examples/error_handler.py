"""
React to every failed attempt, and cancel a job that cannot succeed.

Without a handler, Millhand logs failures: `job errored`, and at the end `job discarded`.

Prints:

    attempt 1 of 3, TimeoutError('bank is slow')
    attempt 2 of 3, TimeoutError('bank is slow')
    attempt 3 of 3, PermissionError('card is stolen'), cancelled
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from millhand import AttemptFailure, Client, Config, EventKind, InsertOpts, Job, JobRow, QueueConfig, Workers

SOON = timedelta(seconds=0.1)
workers = Workers()


class RetrySoon:
    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        return now + SOON


@dataclass(frozen=True)
class Charge:
    kind: ClassVar[str] = "charge"


@workers.add(retry=RetrySoon())  # the default is 1 s, 16 s, 81 s, 4 min, …
async def charge(job: Job[Charge]) -> None:
    raise TimeoutError("bank is slow") if job.attempt < 3 else PermissionError("card is stolen")


class Watcher:
    async def handle_error(self, failure: AttemptFailure) -> bool:
        job, error = failure.job, failure.error
        is_hopeless = isinstance(error, PermissionError)
        print(f"attempt {job.attempt} of {job.max_attempts}, {error!r}{', cancelled' * is_hopeless}")
        return is_hopeless  # True cancels the job; otherwise it is retried


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    queues = {"default": QueueConfig(max_workers=10, fetch_poll_interval=SOON)}
    config = Config(workers=workers, queues=queues, error_handlers=[Watcher()])
    async with Client(url, config) as client:
        with client.subscribe(EventKind.JOB_CANCELLED) as events:
            await client.insert(Charge(), InsertOpts(max_attempts=3))
            await anext(events)


if __name__ == "__main__":
    asyncio.run(main())
