"""
List, cancel, retry and delete jobs from outside.

No worker has to run. Running workers in any language receive the commands.

Prints:

    scheduled: tomorrow, next year
    next year is cancelled
    tomorrow is available
    deleted: tomorrow, next year
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from millhand import Client, InsertOpts, JobFilters, JobState


@dataclass(frozen=True)
class Remind:
    kind: ClassVar[str] = "remind"
    when: str


def after(days: int) -> InsertOpts:
    return InsertOpts(scheduled_at=datetime.now(UTC) + timedelta(days=days), queue="reminders")


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    async with Client(url) as client:  # without queues it works no jobs
        jobs = [(Remind("tomorrow"), after(1)), (Remind("next year"), after(365))]
        tomorrow, next_year = [result.job for result in await client.insert_many(jobs)]

        page = await client.jobs.list(JobFilters(kinds=["remind"], states=[JobState.SCHEDULED]))
        print(f"scheduled: {', '.join(row.args['when'] for row in page.jobs)}")

        row = await client.jobs.cancel(next_year.id)
        print(f"{row.args['when']} is {row.state}")

        row = await client.jobs.retry(tomorrow.id)  # now instead of tomorrow
        print(f"{row.args['when']} is {row.state}")

        deleted = await client.jobs.delete_many(JobFilters(kinds=["remind"]))
        print(f"deleted: {', '.join(row.args['when'] for row in deleted)}")


if __name__ == "__main__":
    asyncio.run(main())
