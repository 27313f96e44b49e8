"""
Jobs that are not to be there twice: by their args, or part of them, by period, by queue, by state.

The keys are River's to the byte, so a Go process and a Python process hold each other's.

Prints:

    first:  inserted
    second: there already, the same job
    other:  inserted
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar

from millhand import Client, InsertOpts, InsertResult, JobFilters, Unique, UniqueOpts


@dataclass(frozen=True)
class SyncCustomer:
    kind: ClassVar[str] = "sync_customer"
    # One per customer and hour, as long as it is not cancelled or discarded.
    insert_opts: ClassVar[InsertOpts] = InsertOpts(
        queue="sync", unique=UniqueOpts(by_args=True, by_period=timedelta(hours=1))
    )
    customer_id: Annotated[int, Unique]  # counts
    trace_id: str  # does not


def told(result: InsertResult) -> str:
    return "there already" if result.unique_skipped_as_duplicate else "inserted"


async def main() -> None:
    async with Client(os.environ["DATABASE_URL"]) as client:
        first = await client.insert(SyncCustomer(1, "a"))
        print(f"first:  {told(first)}")
        second = await client.insert(SyncCustomer(1, "b"))
        print(f"second: {told(second)}, {'the same job' if second.job.id == first.job.id else 'another job'}")
        other = await client.insert(SyncCustomer(2, "c"))
        print(f"other:  {told(other)}")
        await client.jobs.delete_many(JobFilters(kinds=["sync_customer"]))  # leave nothing behind


if __name__ == "__main__":
    asyncio.run(main())
