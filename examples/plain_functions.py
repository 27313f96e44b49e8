"""
Use plain functions as workers: a plain `def` runs in a thread, so it may block.

With plain parameters, `function.args(…)` creates the args, and type checkers check them. Python cannot interrupt a
thread, so a long function calls `job.check_cancel_requested()`.

Prints:

    a.png is 80 wide now
    1 + … + 100 = 5050
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import ClassVar

from millhand import Client, Config, EventKind, Job, Workers

workers = Workers()


@workers.add()
def resize(key: str, width: int = 640) -> None:
    print(f"{key} is {width} wide now")


@dataclass(frozen=True)
class SumUp:
    kind: ClassVar[str] = "sum_up"
    up_to: int


@workers.add()
def sum_up(job: Job[SumUp]) -> None:
    total = 0
    for number in range(1, job.args.up_to + 1):
        job.check_cancel_requested()  # raises if the attempt must end
        total += number
    print(f"1 + … + {job.args.up_to} = {total}")


async def main() -> None:
    url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
    config = Config(workers=workers, queues={"default": 10})
    async with Client(url, config) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            await client.insert(resize.args("a.png", width=80))
            await anext(events)
            await client.insert(SumUp(100))
            await anext(events)


if __name__ == "__main__":
    asyncio.run(main())
