"""Archives in tests: an archiver of one test, the jobs that its files have, and the files as other programs read them."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from factory import insert_job, qualified
from millhand.archive.archiver import JobArchiver
from millhand.core.archive import Archive
from millhand.core.job import JobRow, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.registration import Registration
from millhand.storage import ObjectStore
from millhand.testing import ManualClock

# Long ago, so that the horizon of a pass does not matter.
FINISHED = datetime(2026, 3, 10, 12, tzinfo=UTC)
CURSOR = "SELECT archived_at::text AS at, archived_id AS id FROM /* schema */millhand_archive_cursor"
# A script of another test has up to 120 seconds, and is one transaction.
OTHERS_SECONDS = 150.0
FILES = "SELECT key, state, num_jobs FROM /* schema */millhand_archive_file ORDER BY key"


def archiver_of(
    executor: Any,
    directory: Path,
    *,
    now: Callable[[], datetime | None] = lambda: None,
    store: ObjectStore | None = None,
    **settings: Any,
) -> JobArchiver:
    """Return an archiver into a directory, which a test runs pass by pass."""
    return JobArchiver(
        executor,
        archive=Archive(url=directory.as_uri(), **settings),
        clock=ManualClock(),
        now=now,
        registration=Registration(is_active=True),
        store=store,
    )


async def finish(executor: Executor, state: JobState = JobState.COMPLETED, **columns: Any) -> JobRow:
    """Insert a job that finished, by default long ago."""
    return await insert_job(executor, state, **{"finalized_at": FINISHED, **columns})


async def archive_all(archiver: JobArchiver) -> None:
    """Run passes until one has a horizon: transactions of other tests on the same server may be open."""
    horizons: list[str | None] = []
    archiver.probe = lambda moment, value=None: horizons.append(value.horizon) if moment == "ended" else None  # type: ignore[method-assign]
    async with asyncio.timeout(OTHERS_SECONDS):
        while not horizons or horizons[-1] is None:
            await archiver.run_once()


async def cursor(executor: Executor) -> tuple[str, int]:
    [row] = await executor.fetch(qualified(CURSOR, executor))
    return row["at"], row["id"]


async def file_states(executor: Executor) -> list[tuple[str, int]]:
    """Return the state of each file, and how many jobs it has."""
    return [(row["state"], row["num_jobs"]) for row in await executor.fetch(qualified(FILES, executor))]


async def archived(executor: Executor, directory: Path) -> list[tuple[int, datetime]]:
    """Return (id, finalized_at) of each job in the files that have a row, with repetitions."""
    rows = await executor.fetch(qualified(FILES, executor))
    keys = [row["key"] for row in rows if row["state"] == "ready"]
    return sorted(job for key in keys for job in read_file(directory / key))


def read_file(path: Path) -> list[tuple[int, datetime]]:
    if path.suffix == ".gz":
        lines = [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]  # noqa: SIM115
        return [(one["id"], datetime.fromisoformat(one["finalized_at"])) for one in lines]
    sql = f"SELECT id, epoch_us(finalized_at) FROM '{path}'"
    origin = datetime(1970, 1, 1, tzinfo=UTC)
    with duckdb.connect() as connection:
        return [(id, origin + timedelta(microseconds=at)) for id, at in connection.execute(sql).fetchall()]


def objects(directory: Path) -> list[str]:
    """Return the keys of all objects in the directory."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.*") if path.is_file())


def outcomes(*jobs: JobRow) -> list[tuple[int, datetime]]:
    return sorted((job.id, job.finalized_at) for job in jobs if job.finalized_at is not None)
