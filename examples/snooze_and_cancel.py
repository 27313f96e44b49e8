"""
What a worker may say of its job besides "done" and "failed".

A snooze gives the attempt back, so a job may be snoozed for ever without running out of attempts.

Prints:

    a.csv is not there yet
    a.csv is there: attempt 1, snoozed 1 time
    b.zip: cancelled, JobCancelError: a CSV file is what we import
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand import Client, Config, EventKind, Job, JobCancel, JobSnooze, Workers

workers = Workers()


@dataclass(frozen=True)
class ImportFile:
    kind: ClassVar[str] = "import_file"
    name: str


@workers.add()
async def import_file(job: Job[ImportFile]) -> None:
    name, snoozes = job.args.name, job.metadata.get("snoozes", 0)
    if not name.endswith(".csv"):
        raise JobCancel("a CSV file is what we import")  # for good
    if not snoozes:
        print(f"{name} is not there yet")
        raise JobSnooze(timedelta(seconds=0.1))  # later
    print(f"{name} is there: attempt {job.attempt}, snoozed {snoozes} time")


async def main() -> None:
    config = Config(workers=workers, queues={"default": 10}, fetch_poll_interval=timedelta(seconds=0.1))
    async with Client(os.environ["DATABASE_URL"], config) as client:
        with client.subscribe(EventKind.JOB_COMPLETED, EventKind.JOB_CANCELLED) as events:
            await client.insert(ImportFile("a.csv"))
            await anext(events)
            await client.insert(ImportFile("b.zip"))
            row = (await anext(events)).job
    if row is not None:
        print(f"{row.args['name']}: {row.state}, {row.errors[0].error}")


if __name__ == "__main__":
    asyncio.run(main())
