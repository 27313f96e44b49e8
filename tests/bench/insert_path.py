"""
Count the bytecode instructions that run while a process inserts in bulk.

    python tests/bench/insert_path.py SYSTEM URL SCHEMA NUM_JOBS    # prints the instructions of one insert

It runs in a process of its own, because a process has one tracer.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from instruction_counter import Counter

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from systems import SYSTEMS


async def count(system: str, url: str, schema: str, num_jobs: int) -> int:
    """Return how many instructions one insert of `num_jobs` jobs takes, after one that is not counted."""
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
