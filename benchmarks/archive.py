"""
Measure the archive: what a pass costs for each job, and how long a search of a day takes.

    .venv/bin/python benchmarks/archive.py --jobs 300000 --search-jobs 10000000

The server is an embedded one, and the archive a directory. CPU time is that of the worker's event loop, of the worker with
the process that writes files, and of the server. For the search, the files are copied until the day has the jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from own_server import Server, own_server

from millhand.archive.archiver import JobArchiver
from millhand.archive.control import ArchiveControl
from millhand.core.archive import Archive, ArchiveFilters, new_file_key
from millhand.core.clock import SystemClock
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator, lines
from millhand.engine.registration import Registration
from millhand.storage import open_store

FILL = """
INSERT INTO river_job (kind, queue, args, max_attempts, attempt, attempted_by, state, finalized_at)
SELECT 'kind_' || n % 20, 'default',
    jsonb_build_object('to', 'user_' || n || '@example.com', 'subject', md5(n::text), 'n', n),
    25, 1, ARRAY['worker_1'], 'completed', timestamptz '2026-03-10 12:00Z' + n * interval '100 us'
FROM generate_series(1, $1) AS n
"""
COPY_ROW = """
INSERT INTO millhand_archive_file (key, day, state, first_at, last_at, min_id, max_id, num_jobs, num_bytes)
SELECT $1, day, 'ready', first_at, last_at, min_id, max_id, num_jobs, num_bytes FROM millhand_archive_file WHERE key = $2
"""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """CPU times in seconds for all jobs, memory in MiB, and the seconds of a search by kind and by a field of args."""

    num_jobs: int
    num_bytes: int
    table_bytes: int
    seconds: float
    loop_seconds: float
    worker_seconds: float
    server_seconds: float
    writer_mebibytes: float
    num_searched: int
    search_seconds: float
    num_found: int

    def lines(self) -> list[str]:
        """Return the figures as lines of text."""
        cpu = self.worker_seconds + self.server_seconds
        return [
            f"jobs per second of one core, with the server's share: {self.num_jobs / cpu:,.0f}",
            f"jobs per second of one core, of the worker's side: {self.num_jobs / self.worker_seconds:,.0f}",
            f"share of the event loop while a pass runs: {self.loop_seconds / self.seconds:.1%}",
            f"event loop for each job: {1e6 * self.loop_seconds / self.num_jobs:.1f} us",
            f"memory of the process that writes, at most: {self.writer_mebibytes:.0f} MiB",
            f"bytes of a job: {self.num_bytes / self.num_jobs:.0f}, in the table {self.table_bytes / self.num_jobs:.0f}",
            f"search of {self.num_searched:,} jobs: {self.search_seconds:.2f} s, {self.num_found:,} found",
        ]


async def measure(server: Server, num_jobs: int, num_searched: int) -> Figures:
    """Archive and search that many jobs."""
    driver = AsyncpgDriver(server.url)
    await driver.open()
    try:
        for line in lines():
            await Migrator(driver, line).up()
        return await _measured(driver, server, num_jobs, num_searched, server.directory / "archive")
    finally:
        await driver.close()


async def _measured(
    driver: AsyncpgDriver, server: Server, num_jobs: int, num_searched: int, directory: Path
) -> Figures:
    pool = driver.pool
    await pool.fetch(FILL, [num_jobs], timeout_seconds=600)
    await pool.execute_script("VACUUM (ANALYZE) river_job")
    [size] = await pool.fetch("SELECT pg_total_relation_size('river_job') AS size")
    archiver = JobArchiver(
        pool,
        archive=Archive(url=directory.as_uri()),
        clock=SystemClock(),
        registration=Registration(is_active=True),
    )
    before = time.perf_counter(), time.thread_time(), _worker_seconds(), server.cpu_seconds()
    await archiver.run_once()
    after = time.perf_counter(), time.thread_time(), _worker_seconds(), server.cpu_seconds()
    seconds, loop, worker, of_server = (end - begin for begin, end in zip(before, after, strict=True))
    control = ArchiveControl(pool, open_store(str(directory)))
    files = await control.files()
    archived = sum(file.num_jobs for file in files)
    if archived != num_jobs:
        raise SystemExit(f"archive must have {num_jobs:,} jobs, got {archived:,}")
    total = archived
    while total < num_searched:
        file = files[(total // num_jobs) % len(files)]
        key = new_file_key(file.day, file.first_at, file.format)
        shutil.copyfile(directory / file.key, directory / key)
        await pool.fetch(COPY_ROW, [key, file.key])
        total += file.num_jobs
    filters = ArchiveFilters(kinds=["kind_7"], where="args ->> '$.to' = 'user_7@example.com'")
    began = time.perf_counter()
    found = await control.search(filters, limit=1_000)
    return Figures(
        num_jobs=num_jobs,
        num_bytes=sum(file.num_bytes for file in files),
        table_bytes=size["size"],
        seconds=seconds,
        loop_seconds=loop,
        worker_seconds=worker,
        server_seconds=of_server,
        writer_mebibytes=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        num_searched=total,
        search_seconds=time.perf_counter() - began,
        num_found=len(found),
    )


def _worker_seconds() -> float:
    """Return the CPU time of this process, and of the processes that wrote files."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=300_000)
    parser.add_argument("--search-jobs", type=int, default=10_000_000)
    options = parser.parse_args(arguments)
    with own_server() as server:
        figures = asyncio.run(measure(server, options.jobs, options.search_jobs))
    print("\n".join(figures.lines()))


if __name__ == "__main__":
    main()
