"""Claims about `millhand worker --processes N`."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path

import asyncpg
import pytest
from worker_harness import GENEROUS_SECONDS, WorkerHarness, started_worker

from millhand.embedded import EmbeddedServer, embedded_postgres

pytestmark = pytest.mark.slow

NUM_OPEN = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'millhand'"

JOBS = """
import os
from pathlib import Path

from millhand.core.config import Config
from millhand.core.worker import Workers

workers = Workers()


@workers.add(kind="note")
async def note(number: int) -> None:
    Path(f"{number}.done").write_text(str(os.getpid()))


config = Config(workers=workers, queues={"default": 10})
"""


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """A project with its own kind and the embedded database."""
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


@pytest.fixture
async def pair(directory: Path) -> AsyncIterator[WorkerHarness]:
    """Two worker processes."""
    async with started_worker(directory, "jobs:config", "--embedded", "--processes", "2") as worker:
        await worker.line("worker started", count=2)
        yield worker


def children(pid: int) -> list[int]:
    """Return the child processes, without the server."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


async def test_signal_stops_all_processes_gracefully(pair: WorkerHarness) -> None:
    """One signal to the supervisor stops each process gracefully; exit code 0, and its line is last."""
    assert len({line["client_id"] for line in pair.all_lines("worker started")}) == 2

    code = await pair.stop()

    assert code == 0
    assert len(pair.all_lines("worker stopping", signal="SIGINT")) == 2
    assert len(pair.all_lines("worker stopped")) == 2
    last = [line["message"] for line in pair.lines if not line["message"].startswith("postgres")][-1]
    assert last == "worker processes stopped"
    assert pair.all_lines(last)[0]["exit_code"] == 0


async def test_killed_process_is_restarted(pair: WorkerHarness) -> None:
    """An unexpected exit is logged, and a new process starts after a second."""
    victim = children(pair.pid)[0]

    os.kill(victim, signal.SIGKILL)

    ended = await pair.line("worker process ended")
    await pair.line("worker started", count=3)
    assert (ended["exit_code"], ended["sleep_seconds"]) == (-signal.SIGKILL, 1.0)
    assert victim not in children(pair.pid)
    assert await pair.stop() == 0


async def test_processes_stop_when_their_supervisor_dies(pair: WorkerHarness) -> None:
    """After a kill of the supervisor its processes stop gracefully."""
    pair.signal(signal.SIGKILL)

    await pair.line("worker stopped", count=2)

    assert len(pair.all_lines("worker stopping", signal="SIGTERM")) == 2


async def test_processes_exit_when_queues_are_empty(directory: Path) -> None:
    """With --until-empty each process exits once the queues are empty, and then the supervisor, with exit code 0."""
    arguments = ("jobs:config", "--embedded", "--processes", "2", "--until-empty")
    async with started_worker(directory, *arguments) as worker:
        assert await worker.wait() == 0
        assert worker.all_lines("worker process ended") == []


async def test_process_with_wrong_use_is_not_restarted(directory: Path) -> None:
    """Exit code 2 of one process stops all of them."""
    module = (
        "import os\nfrom jobs import config\nif 'MILLHAND_SUPERVISOR_FD' in os.environ:\n    config = None\n"
    )
    (directory / "broken.py").write_text(module)
    async with started_worker(directory, "broken:config", "--embedded", "--processes", "2") as worker:
        assert await worker.wait() == 2
        assert worker.all_lines("worker process refused")
        assert worker.all_lines("worker process ended") == []


async def test_several_processes_refuse_a_client_id(directory: Path) -> None:
    """A `client_id` with several processes is an error with a remedy."""
    (directory / "named.py").write_text(
        "from dataclasses import replace\nfrom jobs import config as other\nconfig = replace(other, client_id='me')\n"
    )
    async with started_worker(directory, "named:config", "--embedded", "--processes", "2") as worker:
        assert await worker.wait() == 2

    assert worker.errors == (
        "error: client_id must be unset with several processes, got 'me'; each process gets an id of its own\n"
    )


def small_server(directory: Path) -> AbstractContextManager[EmbeddedServer]:
    directory.chmod(0o755)  # for the user of a server that root starts
    return embedded_postgres(directory, {"fsync": "off", "max_connections": "60"})


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
async def test_twelve_processes_start_on_a_server_of_sixty_connections(directory: Path, scheme: str) -> None:
    """All of them start without an error, one warns of what they may open, and at rest each has three connections."""
    # Short, because the path of a socket is.
    with tempfile.TemporaryDirectory(prefix="millhand") as data, small_server(Path(data)) as running:
        arguments = ("jobs:config", "--migrate", "--processes", "12")
        environment = {"DATABASE_URL": running.url.replace("postgresql", scheme, 1)}
        async with started_worker(directory, *arguments, environment=environment) as worker:
            await worker.line("worker started", count=12, seconds=120)
            warned = await worker.line("connections may run out")
            observer = await asyncpg.connect(running.url)
            async with asyncio.timeout(GENEROUS_SECONDS):
                while await observer.fetchval(NUM_OPEN) > 36:
                    pass
            await observer.close()
            assert await worker.stop() == 0

    assert [line for line in worker.lines if line["level"].lower() in ("error", "critical")] == []
    assert [line["message"] for line in worker.lines if line["level"].lower() == "warning"] == [
        "connections may run out"
    ]
    assert warned["remedy"] == "set pool_size = 3 in [database], or raise max_connections of the server"
    fields = ("num_processes", "pool_size", "num_connections", "connections_max")
    assert [warned[name] for name in fields] == [12, 10, 132, 57]
