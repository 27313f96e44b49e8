"""
Postpone or cancel a job from its worker function.

A snoozed attempt does not count, so a job can be postponed any number of times.

Prints:

    a.csv is not there yet
    a.csv is there: attempt 1, snoozed 1 time
    b.zip: cancelled, JobCancelError: only CSV files can be imported
"""

from __future__ import annotations

import asyncio
import os
import sys
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
        raise JobCancel("only CSV files can be imported")  # for good
    if not snoozes:
        print(f"{name} is not there yet")
        raise JobSnooze(timedelta(seconds=0.1))  # later
    print(f"{name} is there: attempt {job.attempt}, snoozed {snoozes} time")


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    config = Config(workers=workers, queues={"default": 10}, fetch_poll_interval=timedelta(seconds=0.1))
    async with Client(url, config) as client:
        with client.subscribe(EventKind.JOB_COMPLETED, EventKind.JOB_CANCELLED) as events:
            await client.insert(ImportFile("a.csv"))
            await anext(events)
            await client.insert(ImportFile("b.zip"))
            row = (await anext(events)).job
    if row is not None:
        print(f"{row.args['name']}: {row.state}, {row.errors[0].error}")


if __name__ == "__main__":
    asyncio.run(main())
