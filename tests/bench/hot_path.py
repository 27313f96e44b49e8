"""
Count the bytecode instructions that run while a process drains jobs.

    python tests/bench/hot_path.py SYSTEM URL SCHEMA NUM_JOBS SLOTS    # prints the instructions per job

It runs in a process of its own, because a process has one tracer.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from instruction_counter import Counter

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from systems import SYSTEMS

from millhand.bench.workload import Tally


async def count(system: str, url: str, schema: str, num_jobs: int, slots: int) -> float:
    """Return how many instructions a process runs for each of `num_jobs` jobs that are already inserted."""
    tally, counter = Tally(num_jobs), Counter()
    sys.settrace(counter.enter)
    try:
        async with SYSTEMS[system].worker(url, schema, slots, tally):
            await tally.wait_end()
            sys.settrace(None)
    finally:
        sys.settrace(None)
    return counter.num_instructions / num_jobs


if __name__ == "__main__":
    arguments = sys.argv[1:4]
    print(asyncio.run(count(*arguments, *map(int, sys.argv[4:6]))))
