"""Workers of the last release and of this one share one database during an upgrade."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from released import last_release, unpack

from served import Served, served, until
from user_programs import fresh_database

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
COUNTING = """
import asyncio
import os
import sys
from dataclasses import dataclass
from typing import ClassVar

from millhand import Client, Config, InsertOpts, Job, UniqueOpts, Workers

workers = Workers()


@dataclass(frozen=True)
class Count:
    kind: ClassVar[str] = "count"
    number: int
    seconds: float


@workers.add()
async def count(job: Job[Count]) -> None:
    await asyncio.sleep(job.args.seconds)


config = Config(workers=workers, queues={"default": 10})


async def insert(first: int, number: int, seconds: float) -> None:
    unique = InsertOpts(unique=UniqueOpts(by_args=True))
    async with Client(os.environ["DATABASE_URL"]) as client:
        await client.insert_many(
            [(Count(number=first + n, seconds=seconds), unique) for n in range(number)]
        )


if __name__ == "__main__":
    asyncio.run(insert(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
"""

SCHEDULED = """
from datetime import timedelta

from counting import Count, workers
from millhand import Config, JobSchedule

each_second = JobSchedule(
    id="each_second", args=Count(number=0, seconds=0), interval=timedelta(seconds=1), catch_up="all"
)
config = Config(workers=workers, queues={"default": 10}, schedules=[each_second])
"""
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the last release that differs from this checkout, built from its commit."""
    uv = shutil.which("uv") or next(iter(map(str, PROJECT.glob(".tools/*/uv"))), None)
    assert uv is not None
    commit = last_release()
    assert commit is not None
    directory = tmp_path_factory.mktemp("released")
    source, environment = directory / "source", directory / "environment"
    unpack(commit, source)
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", directory, source], check=True)
    (wheel,) = directory.glob("*.whl")
    python = environment / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--no-deps", "--python", python]
    subprocess.run([*install, "--requirement", source / "requirements" / "run.lock"], check=True)
    subprocess.run([*install, wheel], check=True)
    return python


def settings_of(python: str | Path, url: str) -> dict[str, str]:
    """Return the variables for a program; the last release must not import this checkout."""
    return {"DATABASE_URL": url, **({} if python == sys.executable else {"PYTHONPATH": ""})}


@contextlib.asynccontextmanager
async def working(
    python: str | Path, directory: Path, url: str, config: str = "counting:config"
) -> AsyncIterator[Served]:
    """Start a worker of one release."""
    arguments = ["-m", "millhand", "worker", config]
    async with served(arguments, directory, python=str(python), **settings_of(python, url)) as worker:
        await worker.found('"worker started"')
        yield worker


async def ran(python: str | Path, directory: Path, url: str, *arguments: str) -> None:
    """Run a program of one release to its end."""
    async with served(arguments, directory, python=str(python), **settings_of(python, url)) as program:
        assert await program.ended() == 0, program.text


async def test_two_releases_share_the_queue_while_each_is_killed_and_stopped(
    released: Path, postgres_server_url: str, tmp_path: Path
) -> None:
    """
    Both work and insert during a rolling upgrade: the schema changes under the old one, and no job is lost or runs twice.

    A job of a killed worker of either release runs again on the other. Equal unique jobs of both releases are one job.
    """
    (tmp_path / "counting.py").write_text(COUNTING)
    here = sys.executable
    async with fresh_database(postgres_server_url, is_migrated=False) as url:
        connection = await asyncpg.connect(url)

        async def finished() -> bool:
            waiting = await connection.fetchval(
                "SELECT count(*) FROM river_job WHERE kind = 'count' AND state <> 'completed'"
            )
            return bool(waiting == 0)

        async def running_on(worker: Served) -> int:
            return await connection.fetchval(  # type: ignore[no-any-return]
                "SELECT count(*) FROM river_job WHERE state = 'running' AND kind = 'count' AND attempted_by [1] = "
                "(SELECT id FROM millhand_client WHERE pid = $1)",
                worker.pid,
            )

        await ran(released, tmp_path, url, "-m", "millhand", "migrate", "up")
        async with working(released, tmp_path, url) as old:
            await ran(released, tmp_path, url, "counting.py", "0", "300", "0.01")
            await ran(here, tmp_path, url, "-m", "millhand", "migrate", "up")
            async with working(here, tmp_path, url) as new:
                # 100 of them are those of the old release.
                await ran(here, tmp_path, url, "counting.py", "200", "400", "0.01")
                await until(finished, bool)
                await ran(here, tmp_path, url, "counting.py", "1000", "20", "3")
                await until(lambda: running_on(old), bool)
                old.kill()
                await until(finished, bool)
                async with working(released, tmp_path, url) as old_again:
                    await ran(released, tmp_path, url, "counting.py", "2000", "20", "3")
                    await until(lambda: running_on(new), bool)
                    code = await new.stop()
                    await until(finished, bool)
                    old_code = await old_again.stop()
        rows = await connection.fetch("SELECT * FROM river_job WHERE kind = 'count'")
        await connection.close()

    numbers = Counter(row["args"] for row in rows)
    assert (len(rows), max(numbers.values())) == (300 + 300 + 20 + 20, 1)
    assert (code, old_code) == (0, 0)
    assert all('"level":"error"' not in worker.text for worker in (old, new, old_again)), new.text


async def test_a_leader_of_the_last_release_delays_schedules_and_loses_no_run(
    released: Path, postgres_server_url: str, tmp_path: Path
) -> None:
    """
    The last release knows no schedules. What falls due while its worker leads is caught up when one of this release leads.

    Each instant has one job, also while both run and the leader role changes hands.
    """
    (tmp_path / "counting.py").write_text(COUNTING)
    (tmp_path / "scheduled.py").write_text(SCHEDULED)
    here = sys.executable
    async with fresh_database(postgres_server_url, is_migrated=False) as url:
        connection = await asyncpg.connect(url)

        async def runs() -> list[datetime]:
            rows = await connection.fetch(
                "SELECT (metadata ->> 'millhand:due_at')::timestamptz FROM river_job "
                "WHERE metadata ->> 'river:periodic_job_id' = 'each_second' ORDER BY 1"
            )
            return [row[0] for row in rows]

        async def due() -> datetime:
            return await connection.fetchval("SELECT next_run_at FROM millhand_schedule")  # type: ignore[no-any-return]

        async def instants_passed() -> bool:
            passed = "SELECT next_run_at + interval '3 s' < now() FROM millhand_schedule"
            return bool(await connection.fetchval(passed))

        async def has_caught_up() -> bool:
            return len(await runs()) >= 6  # three that were missed, and more

        await ran(released, tmp_path, url, "-m", "millhand", "migrate", "up")
        async with working(released, tmp_path, url) as old:
            await old.found('"leader_role":"periodic"')
            await ran(here, tmp_path, url, "-m", "millhand", "migrate", "up")
            async with working(here, tmp_path, url, "scheduled:config") as new:
                first = await due()
                await until(instants_passed, bool)
                while_old_leads = await runs()
                await old.stop()
                await until(has_caught_up, bool)
                async with working(released, tmp_path, url) as old_again:
                    await new.stop()
                    await old_again.found('"leader_role":"periodic"')
                    await old_again.stop()
        found, last = await runs(), await due()
        await connection.close()

    assert while_old_leads == []
    assert [*found, last] == [first + n * SECOND for n in range(len(found) + 1)]
    assert all('"level":"error"' not in worker.text for worker in (old, new, old_again)), new.text
