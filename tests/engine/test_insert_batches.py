"""A million jobs from an iterator need no more memory than a batch, on every driver."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from millhand import Client, Config, SyncClient
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.insert_batches import BATCH_SIZE
from user_programs import run_python

NUM_JOBS = 20 * BATCH_SIZE
# The growth allowed while a process inserts a million jobs, whose rows are 70 MiB as text.
GROWN_MIB_MAX = 10
MILLION_SECONDS = 300.0  # many times what an idle machine needs
PROGRAM = """
import asyncio, os, resource, sys
from dataclasses import dataclass
from typing import ClassVar
from millhand import Client, Config

@dataclass(frozen=True)
class Small:
    kind: ClassVar[str] = "small"
    n: int

def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

async def main(schema):
    async with Client(os.environ["DATABASE_URL"], Config(schema=schema)) as client:
        await client.insert_many_fast(Small(n) for n in range(20_000))
        before = peak_kib()
        num_jobs = await client.insert_many_fast(Small(n) for n in range(1_000_000))
        print(num_jobs, (peak_kib() - before) // 1024)

asyncio.run(main(sys.argv[1]))
"""


@dataclass(frozen=True, eq=False)
class Weak:
    kind: ClassVar[str] = "weak"
    n: int


class Living:
    """Counts the jobs that are alive as they are taken."""

    def __init__(self) -> None:
        self.most = 0
        self._living: weakref.WeakSet[Weak] = weakref.WeakSet()

    def jobs(self) -> Iterator[Weak]:
        for n in range(NUM_JOBS):
            job = Weak(n)
            self._living.add(job)
            self.most = max(self.most, len(self._living))
            yield job


@pytest.mark.parametrize("way", ["psycopg", "sync"])
@pytest.mark.slow
async def test_only_a_batch_is_alive_on_psycopg_too(
    schema_driver: AsyncpgDriver, postgres_url: str, way: str
) -> None:
    """On psycopg, with and without an event loop, jobs are taken only as their rows are sent."""
    living, config = Living(), Config(schema=schema_driver.schema)

    def insert() -> int:
        with SyncClient(postgres_url, config) as client:
            return client.insert_many_fast(living.jobs())

    if way == "sync":
        num_jobs = await asyncio.to_thread(insert)
    else:
        async with Client(postgres_url.replace("postgresql", "postgresql+psycopg", 1), config) as client:
            num_jobs = await client.insert_many_fast(living.jobs())

    assert num_jobs == NUM_JOBS
    assert BATCH_SIZE <= living.most <= 3 * BATCH_SIZE


@pytest.mark.slow
async def test_million_jobs_are_inserted_in_constant_memory(
    schema_driver: AsyncpgDriver, postgres_url: str, tmp_path: Path
) -> None:
    """The process grows by a few megabytes."""
    (tmp_path / "program.py").write_text(PROGRAM)

    ended = await run_python(
        ["program.py", schema_driver.schema],
        database_url=postgres_url,
        directory=tmp_path,
        seconds=MILLION_SECONDS,
    )

    assert ended.code == 0, ended.stderr
    num_jobs, grown_mib = map(int, ended.stdout.split())
    assert (num_jobs, grown_mib <= GROWN_MIB_MAX) == (1_000_000, True), grown_mib
