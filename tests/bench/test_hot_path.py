"""What a job costs in Python does not creep up: instructions are counted, which nothing else on the machine changes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from millhand.bench.place import Place, bench_place
from millhand.bench.system import SYSTEMS, System

pytestmark = pytest.mark.slow

SLOTS = 1_000
# What Millhand's job costs, times the floor's, and how much more is let pass. Whoever makes it cheaper lowers the number.
RATIO = 1.37
LIMIT = 1.15
PROGRAM = Path(__file__).with_name("hot_path.py")
INSERT_RATIO = 6.90
INSERT_PROGRAM = Path(__file__).with_name("insert_path.py")


async def instructions(place: Place, system: System, num_jobs: int) -> float:
    """Return how many instructions a worker runs altogether for so many jobs."""
    await place.empty()
    async with system.inserter(place.url, place.schema) as inserter:
        for start in range(0, num_jobs, SLOTS):
            await inserter.insert_many(range(start, start + SLOTS))
    await place.settle(with_checkpoint=False)
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAM, system.name, place.url, place.schema, str(num_jobs), str(SLOTS),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    counted, _ = await process.communicate()
    return float(counted) * num_jobs


async def instructions_a_job(place: Place, system: System) -> float:
    """Return what one more job costs, which leaves out what it costs to start."""
    few, many = await instructions(place, system, 1_000), await instructions(place, system, 3_000)
    return (many - few) / 2_000


async def test_job_costs_no_more_than_it_did(postgres_url: str) -> None:
    """Fetch, execution and completion of a job take at most 15 % more instructions, times the floor's, than written down."""
    async with bench_place(postgres_url) as place:
        floor = await instructions_a_job(place, SYSTEMS["floor_life"])
        engine = await instructions_a_job(place, SYSTEMS["millhand"])

    assert engine / floor <= RATIO * LIMIT, f"{engine:.0f} instructions a job, {floor:.0f} of the floor"
    assert engine / floor >= RATIO / LIMIT, (
        f"only {engine:.0f} instructions a job, {floor:.0f} of the floor: lower RATIO"
    )


async def instructions_an_insert(place: Place, system: System, num_jobs: int) -> int:
    """Return how many instructions one insert of so many jobs takes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, INSERT_PROGRAM, system.name, place.url, place.schema, str(num_jobs),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    counted, _ = await process.communicate()
    return int(counted)


async def instructions_an_inserted_job(place: Place, system: System) -> float:
    """Return what one more job of an insert costs, which leaves out what the statement costs."""
    few, many = [await instructions_an_insert(place, system, num_jobs) for num_jobs in (500, 1_500)]
    return (many - few) / 1_000


async def test_bulk_insert_costs_no_more_than_it_did(postgres_url: str) -> None:
    """A job of a bulk insert takes at most 15 % more instructions, times the floor's, than written down."""
    async with bench_place(postgres_url) as place:
        floor = await instructions_an_inserted_job(place, SYSTEMS["floor_life"])
        engine = await instructions_an_inserted_job(place, SYSTEMS["millhand"])

    told = f"{engine:.1f} instructions a job, {floor:.1f} of the floor"
    assert engine / floor <= INSERT_RATIO * LIMIT, told
    assert engine / floor >= INSERT_RATIO / LIMIT, f"only {told}: lower INSERT_RATIO"
