"""The programs of docs/how_to/migrate_from run in the systems that they are for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from free_ports import free_ports
from page_runner import blocks
from required import missing
from user_programs import PROJECT, environment, fresh_database

pytestmark = pytest.mark.slow

ELSEWHERE = PROJECT / ".venv-elsewhere" / "bin"
PAGES = PROJECT / "docs" / "how_to" / "migrate_from"
RECEIPT = "receipt for order 1"
# For one program: other systems' workers start and stop slowly, more so on a busy machine.
GENEROUS_SECONDS = 120.0
SECOND = timedelta(seconds=1)  # some systems round instants
# The worker of `arq`, stopped after one job: a signal at the wrong moment makes it fail.
ARQ_WORKER = """
from arq.worker import run_worker
from old_shop import WorkerSettings
run_worker(WorkerSettings, burst=True, max_burst_jobs=1)
"""


@dataclass(frozen=True)
class System:
    """
    Another job system: the command of its worker, and the commands to run first.

    A worker exits when no job is due. If `has_done` is set, SIGTERM stops the worker once it prints that text and the
    command `before_stop` has run, as the page says.
    """

    name: str
    worker: Sequence[str]
    has_done: str | None = None
    before_stop: Sequence[str] = ()
    has_redis: bool = True
    first: Sequence[Sequence[str]] = field(default=())


SYSTEMS = (
    System(
        "celery",
        [
            "celery",
            "--app",
            "old_shop",
            "worker",
            "--queues",
            "mail",
            "--concurrency",
            "2",
            "--loglevel",
            "INFO",
        ],
        has_done="succeeded",
        before_stop=["celery", "--app", "old_shop", "inspect", "active"],
    ),
    System("rq", ["rq", "worker", "--with-scheduler", "--burst", "--url", "$REDIS_URL", "mail"]),
    System("arq", ["python", "-c", ARQ_WORKER]),
    System("dramatiq", ["dramatiq", "old_shop", "--processes", "1", "--threads", "2"], has_done=RECEIPT),
    System(
        "procrastinate",
        ["procrastinate", "--app", "old_shop.app", "worker", "--queues", "mail", "--one-shot"],
        has_redis=False,
        first=[["procrastinate", "--app", "old_shop.app", "schema", "--apply"]],
    ),
)


class Shop:
    """A directory with the programs of a page, and the services that they use."""

    def __init__(self, directory: Path, database_url: str, redis_url: str) -> None:
        self._directory = directory
        self._environment = environment(
            DATABASE_URL=database_url, REDIS_URL=redis_url, PYTHONPATH=str(directory), NO_COLOR="1"
        )
        self._environment["PATH"] = f"{ELSEWHERE}{os.pathsep}{self._environment['PATH']}"

    async def run(self, *command: str, until: str | None = None, before_stop: Sequence[str] = ()) -> str:
        """
        Run a program to its end and return its output.

        With `until`, wait until it prints that text, run the command `before_stop`, and send SIGTERM.

        Raises: AssertionError if the program fails or does not end.
        """
        words = [word.replace("$REDIS_URL", self._environment["REDIS_URL"]) for word in command]
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=self._directory,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        output = ""
        try:
            async with asyncio.timeout(GENEROUS_SECONDS):
                while line := (await process.stdout.readline()).decode():
                    output += line
                    if until is not None and until in line:
                        until = None
                        if before_stop:
                            await self.run(*before_stop)
                        process.send_signal(signal.SIGTERM)
                code = await process.wait()
        except TimeoutError:
            raise AssertionError(f"{command} does not end\n{output}") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        assert (code, until) == (0, None), output
        return output


@contextlib.asynccontextmanager
async def redis_server() -> AsyncIterator[str]:
    """Yield the URL of a Redis without persistence."""
    program = shutil.which("redis-server")
    if program is None:
        missing("redis", "there is no redis-server; apt-get install redis-server")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="millhand-redis-") as directory:
        process = await asyncio.create_subprocess_exec(
            program, "--port", str(port), "--save", "", "--dir", directory, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(GENEROUS_SECONDS):
                while b"Ready to accept" not in (line := await process.stdout.readline()):
                    assert line, "the server exited"
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            await process.communicate()


@pytest.fixture
async def database_url(postgres_server_url: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_server_url) as url:
        yield url


async def rows(url: str, began: datetime) -> list[tuple[int, str, str, bool]]:
    """Return order, queue and state of each job, and whether it is due three days after an instant since `began`."""
    connection = await asyncpg.connect(url)
    found = await connection.fetch(
        "SELECT (args->>'order_id')::int AS n, queue, state::text AS state, scheduled_at FROM river_job ORDER BY id"
    )
    await connection.close()
    now = datetime.now(UTC)
    return sorted(
        (
            one["n"],
            one["queue"],
            one["state"],
            began - SECOND < one["scheduled_at"] - timedelta(days=3) < now + SECOND,
        )
        for one in found
    )


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
async def test_drain_script_moves_what_the_old_workers_left(
    system: System, tmp_path: Path, database_url: str
) -> None:
    """The old program works in the old system, and `drain.py` moves each job that is left, once."""
    if not (ELSEWHERE / system.worker[0]).exists():
        missing("elsewhere", f"there is no {system.worker[0]} in .venv-elsewhere; run ./just elsewhere")
    for page in ("index", system.name):
        for block in blocks(PAGES / f"{page}.md"):
            if block.title is not None:
                (tmp_path / block.title).write_text(block.text)
    python = str(ELSEWHERE / "python")
    async with redis_server() if system.has_redis else contextlib.nullcontext("") as redis_url:
        shop = Shop(tmp_path, database_url, redis_url)
        for command in system.first:
            await shop.run(*command)

        # The old system works one order; a second order waits there for three days.
        began = datetime.now(UTC)
        await shop.run(python, "old_sell.py")
        output = await shop.run(*system.worker, until=system.has_done, before_stop=system.before_stop)
        # Two more orders follow, and the script moves all that wait.
        await shop.run(python, "old_sell.py")
        moved = [(await shop.run(python, "drain.py")).splitlines()[-1] for _ in range(2)]
        in_table = await rows(database_url, began)
        worked = await shop.run(python, "-m", "millhand", "worker", "shop:config", "--until-empty")

    assert RECEIPT in output
    assert moved == ["moved 3", "moved 0"]
    assert in_table == [
        (1, "mail", "available", False),
        (2, "mail", "scheduled", True),
        (2, "mail", "scheduled", True),
    ]
    assert worked.count(RECEIPT) == 1
