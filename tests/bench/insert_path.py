"""
What inserting a job costs in Python, counted and not timed: the bytecode that runs while a process inserts in bulk.

    python tests/bench/insert_path.py SYSTEM URL SCHEMA NUM_JOBS    # prints how many instructions one insert takes

In a process of its own, for whoever traces is traced by nobody else.
"""

from __future__ import annotations

import asyncio
import sys

from instruction_counter import Counter

from millhand.bench.system import SYSTEMS


async def count(system: str, url: str, schema: str, num_jobs: int) -> int:
    """Return how many instructions a process runs for one insert of `num_jobs` jobs, after one that is not counted."""
    counter = Counter()
    async with SYSTEMS[system].inserter(url, schema) as inserter:
        await inserter.insert_many(range(num_jobs))
        sys.settrace(counter.enter)
        try:
            await inserter.insert_many(range(num_jobs))
        finally:
            sys.settrace(None)
    return counter.num_instructions


if __name__ == "__main__":
    print(asyncio.run(count(*sys.argv[1:4], int(sys.argv[4]))))
