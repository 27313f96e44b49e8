"""
Resume a job where the last attempt stopped.

Prints:

    downloaded
    row 1
    attempt 1 failed with progress {'rows': 1}
    row 2
    job_completed
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand import Client, Config, ConstantRetryPolicy, Cursor, Job, Workers

workers = Workers()


@dataclass(frozen=True)
class ImportCatalog:
    kind: ClassVar[str] = "import_catalog"
    num_rows: int


@workers.add(retry=ConstantRetryPolicy(timedelta(0)))
async def import_catalog(job: Job[ImportCatalog]) -> None:
    await job.step("download", download)
    await job.step_cursor("rows", import_rows, job.args.num_rows)


async def download() -> None:
    print("downloaded")


async def import_rows(cursor: Cursor, num_rows: int) -> None:
    for number in range(cursor.value or 0, num_rows):
        print(f"row {number + 1}")
        cursor.set(number + 1)
        if number == 0:
            raise ConnectionError("connection lost")


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    async with Client(url, Config(workers=workers, queues={"default": 1})) as client:
        events = client.subscribe()
        await client.insert(ImportCatalog(2))
        failed = (await anext(events)).job
        print(f"attempt 1 failed with progress {failed and failed.metadata['river:resumable_cursor']}")
        print((await anext(events)).kind)


if __name__ == "__main__":
    asyncio.run(main())
