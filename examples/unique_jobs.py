"""
Insert a job only once: by its args or some of them, by period, by queue, by state.

Go and Python compute the same keys, so the rule holds between them.

Prints:

    first:  inserted
    second: skipped, the same job
    other:  inserted
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar

from millhand import Client, InsertOpts, InsertResult, JobFilters, Unique, UniqueOpts


@dataclass(frozen=True)
class SyncCustomer:
    kind: ClassVar[str] = "sync_customer"
    # One job for each customer and hour, unless it was cancelled or discarded.
    insert_opts: ClassVar[InsertOpts] = InsertOpts(
        queue="sync", unique=UniqueOpts(by_args=True, by_period=timedelta(hours=1))
    )
    customer_id: Annotated[int, Unique]  # part of the key
    trace_id: str  # not part of it


def outcome_of(result: InsertResult) -> str:
    return "skipped" if result.unique_skipped_as_duplicate else "inserted"


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    async with Client(url) as client:
        first = await client.insert(SyncCustomer(1, "a"))
        print(f"first:  {outcome_of(first)}")
        second = await client.insert(SyncCustomer(1, "b"))
        print(
            f"second: {outcome_of(second)}, {'the same job' if second.job.id == first.job.id else 'another job'}"
        )
        other = await client.insert(SyncCustomer(2, "c"))
        print(f"other:  {outcome_of(other)}")
        await client.jobs.delete_many(JobFilters(kinds=["sync_customer"]))  # clean up


if __name__ == "__main__":
    asyncio.run(main())
