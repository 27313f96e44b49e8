"""Guard the cost of a job in Python: instructions are counted, which other programs hardly change."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from millhand.bench.bench_schema import BenchSchema, bench_schema

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from systems import SYSTEMS, System

pytestmark = pytest.mark.slow

SLOTS = 1_000
# The sizes of the batches depend on time, and a batch costs some instructions: over so many jobs that is 2 % at most.
FEW, MANY = 1_000, 11_000
# The cost of Millhand's job as a multiple of the baseline's, and the tolerance. Lower the number when the cost falls.
RATIO = 1.36
LIMIT = 1.15
PROGRAM = Path(__file__).with_name("hot_path.py")
INSERT_RATIO = 5.87
INSERT_PROGRAM = Path(__file__).with_name("insert_path.py")


async def instructions(schema: BenchSchema, system: System, num_jobs: int) -> float:
    """Return how many instructions a worker runs for `num_jobs` jobs, its start included."""
    await schema.empty()
    async with system.inserter(schema.url, schema.name) as inserter:
        for start in range(0, num_jobs, SLOTS):
            await inserter.insert_many(range(start, start + SLOTS))
    await schema.settle(with_checkpoint=False)
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAM, system.name, schema.url, schema.name, str(num_jobs), str(SLOTS),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    counted, _ = await process.communicate()
    return float(counted) * num_jobs


async def instructions_a_job(schema: BenchSchema, system: System) -> float:
    """Return the cost of one more job, without the cost of the start."""
    few, many = await instructions(schema, system, FEW), await instructions(schema, system, MANY)
    return (many - few) / (MANY - FEW)


async def test_job_costs_no_more_than_it_did(postgres_url: str) -> None:
    """Fetch, execution and completion of a job take at most 15 % more instructions, relative to the baseline, than RATIO."""
    async with bench_schema(postgres_url) as schema:
        baseline = await instructions_a_job(schema, SYSTEMS["baseline_tasks"])
        engine = await instructions_a_job(schema, SYSTEMS["millhand"])

    assert engine / baseline <= RATIO * LIMIT, (
        f"{engine:.0f} instructions a job, {baseline:.0f} of the baseline"
    )
    assert engine / baseline >= RATIO / LIMIT, (
        f"only {engine:.0f} instructions a job, {baseline:.0f} of the baseline: lower RATIO"
    )


async def instructions_an_insert(schema: BenchSchema, system: System, num_jobs: int) -> int:
    """Return how many instructions one insert of `num_jobs` jobs takes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, INSERT_PROGRAM, system.name, schema.url, schema.name, str(num_jobs),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    counted, _ = await process.communicate()
    return int(counted)


async def instructions_an_inserted_job(schema: BenchSchema, system: System) -> float:
    """Return the cost of one more job of an insert, without the cost of the statement."""
    few, many = [await instructions_an_insert(schema, system, num_jobs) for num_jobs in (500, 1_500)]
    return (many - few) / 1_000


async def test_bulk_insert_costs_no_more_than_it_did(postgres_url: str) -> None:
    """A job of a bulk insert takes at most 15 % more instructions, relative to the baseline, than INSERT_RATIO."""
    async with bench_schema(postgres_url) as schema:
        baseline = await instructions_an_inserted_job(schema, SYSTEMS["baseline_tasks"])
        engine = await instructions_an_inserted_job(schema, SYSTEMS["millhand"])

    counts = f"{engine:.1f} instructions a job, {baseline:.1f} of the baseline"
    assert engine / baseline <= INSERT_RATIO * LIMIT, counts
    assert engine / baseline >= INSERT_RATIO / LIMIT, f"only {counts}: lower INSERT_RATIO"
