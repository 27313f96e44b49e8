from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from millhand.embedded.programs import Programs
from user_programs import environment, fresh_database, run_python

JOBS = """\
import asyncio
from pathlib import Path

from millhand import Config, Workers

workers = Workers()


@workers.add()
async def wait(path: str) -> None:
    while not Path(path).exists():
        await asyncio.sleep(0.01)


@workers.add()
async def hello() -> None: ...


config = Config(workers=workers, queues={"default": 10})
"""


@pytest.mark.slow
async def test_dump_is_restored_with_its_jobs(postgres_server_url: str, tmp_path: Path) -> None:
    """A restored dump has the jobs that waited and ran; both run again, though the worker of then is gone."""
    dump, go_on = tmp_path / "shop.dump", tmp_path / "go_on"
    (tmp_path / "jobs.py").write_text(JOBS)
    async with (
        fresh_database(postgres_server_url) as url,
        fresh_database(postgres_server_url, is_migrated=False) as copy,
    ):
        await _millhand(url, tmp_path, "job", "insert", "wait", f'{{"path": "{go_on}"}}')
        async with _worker(url, tmp_path):
            await _until(url, "SELECT EXISTS (SELECT FROM river_job WHERE state = 'running')")
            await _millhand(url, tmp_path, "queue", "pause", "default")
            await _millhand(url, tmp_path, "job", "insert", "hello", "{}")
            await _postgres("pg_dump", "--format", "custom", "--file", str(dump), url)
        await _postgres("pg_restore", "--dbname", copy, "--no-owner", str(dump))
        go_on.touch()

        await _millhand(copy, tmp_path, "migrate", "validate")
        await _millhand(copy, tmp_path, "queue", "resume", "*")
        async with _worker(copy, tmp_path):
            await _until(copy, "SELECT 2 = (SELECT count(*) FROM river_job WHERE state = 'completed')")


async def _millhand(url: str, directory: Path, *arguments: str) -> None:
    ended = await run_python(
        ["-m", "millhand", *arguments], database_url=url, directory=directory, seconds=60
    )
    assert ended.code == 0, ended


@contextlib.asynccontextmanager
async def _worker(url: str, directory: Path) -> AsyncIterator[None]:
    """Run a worker, and kill it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "millhand",
        "worker",
        "jobs:config",
        cwd=directory,
        env=environment(DATABASE_URL=url),
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def _postgres(program: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(Programs(Path()).directory / program, *arguments)
    assert await process.wait() == 0


async def _until(url: str, question: str) -> None:
    """Wait until the database answers with true. It waits between the questions, and not this process."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(60):
            while not await connection.fetchval(f"{question} FROM pg_sleep(0.1)"):
                pass
    finally:
        await connection.close()
