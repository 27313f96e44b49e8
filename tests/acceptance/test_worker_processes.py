"""`millhand worker --processes N`: workers side by side, begun again when one ends, and stopped together."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from worker_harness import WorkerHarness, started_worker

pytestmark = pytest.mark.slow

JOBS = """
import os
from pathlib import Path

from millhand.config import Config
from millhand.worker import Workers

workers = Workers()


@workers.add(kind="note")
async def note(number: int) -> None:
    Path(f"{number}.done").write_text(str(os.getpid()))


config = Config(workers=workers, queues={"default": 10})
"""


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """A project with a kind of its own, and the embedded database."""
    (tmp_path / "jobs.py").write_text(JOBS)
    return tmp_path


@pytest.fixture
async def pair(directory: Path) -> AsyncIterator[WorkerHarness]:
    """Two processes that work."""
    async with started_worker(directory, "jobs:config", "--processes", "2") as worker:
        await worker.line("worker started", count=2)
        yield worker


def children(pid: int) -> list[int]:
    """Return the processes that one has started, but for the server."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes()]


async def test_signal_is_handed_on_and_all_stop_in_order(pair: WorkerHarness) -> None:
    """One signal to the supervisor stops each process in order, by a worker's own ladder; exit code 0, its line is last."""
    assert len({line["client_id"] for line in pair.all_lines("worker started")}) == 2

    code = await pair.stop()

    assert code == 0
    assert len(pair.all_lines("worker stopping", signal="SIGINT")) == 2
    assert len(pair.all_lines("worker stopped")) == 2
    last = [line["message"] for line in pair.lines if not line["message"].startswith("postgres")][-1]
    assert last == "worker processes stopped"
    assert pair.all_lines(last)[0]["exit_code"] == 0


async def test_process_that_is_killed_is_begun_again(pair: WorkerHarness) -> None:
    """A process that ends before its time is said to have ended, and another takes its place after a second."""
    victim = children(pair.pid)[0]

    os.kill(victim, signal.SIGKILL)

    ended = await pair.line("worker process ended")
    await pair.line("worker started", count=3)
    assert (ended["exit_code"], ended["sleep_seconds"]) == (-signal.SIGKILL, 1.0)
    assert victim not in children(pair.pid)
    assert await pair.stop() == 0


async def test_processes_stop_when_their_supervisor_is_gone(pair: WorkerHarness) -> None:
    """A supervisor that is killed leaves nobody behind: its processes stop in order, as if they were told to."""
    pair.signal(signal.SIGKILL)

    await pair.line("worker stopped", count=2)

    assert len(pair.all_lines("worker stopping", signal="SIGTERM")) == 2


async def test_processes_end_when_all_is_done(directory: Path) -> None:
    """With --until-empty each process ends when nothing is left, and then the supervisor, with exit code 0."""
    arguments = ("jobs:config", "--processes", "2", "--until-empty")
    async with started_worker(directory, *arguments) as worker:
        assert await worker.wait() == 0
        assert worker.all_lines("worker process ended") == []


async def test_process_that_is_used_wrongly_is_not_begun_again(directory: Path) -> None:
    """Exit code 2 of a process ends all of them: it would say the same again and again."""
    module = (
        "import os\nfrom jobs import config\nif 'MILLHAND_SUPERVISOR_FD' in os.environ:\n    config = None\n"
    )
    (directory / "broken.py").write_text(module)
    async with started_worker(directory, "broken:config", "--processes", "2") as worker:
        assert await worker.wait() == 2
        assert worker.all_lines("worker process refused")
        assert worker.all_lines("worker process ended") == []


async def test_several_processes_have_no_id_in_common(directory: Path) -> None:
    """An id that is set for one worker is refused for several, with the remedy."""
    (directory / "named.py").write_text(
        "from dataclasses import replace\nfrom jobs import config as other\nconfig = replace(other, client_id='me')\n"
    )
    async with started_worker(directory, "named:config", "--processes", "2") as worker:
        assert await worker.wait() == 2

    assert worker.errors == (
        "error: client_id must be unset with several processes, got 'me'; each process gets an id of its own\n"
    )
