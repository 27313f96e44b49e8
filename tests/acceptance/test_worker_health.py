"""Claims about the probes of a real worker: its start, a hung event loop, an outage of the database, and its stop."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from worker_harness import GENEROUS_SECONDS, WorkerHarness, child_environment, started_worker

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.job_list import JobFilters
from proxy import proxied

pytestmark = pytest.mark.slow

JOBS = """
import asyncio
import time
from datetime import timedelta
from pathlib import Path

from millhand.core.config import Config
from millhand.core.worker import Workers

workers = Workers()


@workers.add(kind="compute")
async def compute(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


@workers.add(kind="wait")
async def wait(file: str) -> None:
    while not Path(file).exists():
        await asyncio.sleep(0.05)


config = Config(workers=workers, queues={"default": 10}, heartbeat_interval=None, fetch_poll_interval=timedelta(seconds=0.2))
"""
LINE = 1 + JOBS[: JOBS.index("while time")].count("\n")
PROBE_SECONDS = 0.05
LONG = 60.0
# A worker on a busy machine is live: its loop may be late for a second.
PATIENT = {"MILLHAND_OBSERVE_LIVE_AFTER": "2m"}


class World:
    """A schema, a project with its jobs, and what starts workers there."""

    def __init__(self, directory: Path, url: str, schema: str) -> None:
        self.client = Client(url, Config(schema=schema, skip_unknown_job_check=True))
        self.directory = directory
        self.environment = {
            "DATABASE_URL": url,
            "MILLHAND_DATABASE_SCHEMA": schema,
            "MILLHAND_OBSERVE_LISTEN": "127.0.0.1:0",
            "MILLHAND_OBSERVE_LIVE_AFTER": "1s",
        }

    def worker(self, *arguments: str, **changes: str) -> AbstractAsyncContextManager[WorkerHarness]:
        """Start a worker."""
        return started_worker(
            self.directory, "jobs:config", *arguments, environment={**self.environment, **changes}
        )

    async def insert(self, kind: str, **args: object) -> None:
        """Insert a job."""
        await self.client.insert(RawArgs(kind, json.dumps(args)))

    async def until_running(self, num_jobs: int) -> None:
        """Return once so many jobs run."""
        running = JobFilters(states=[JobState.RUNNING])
        async with asyncio.timeout(LONG):
            while len((await self.client.jobs.list(running)).jobs) < num_jobs:
                pass


@pytest.fixture
async def world(tmp_path: Path, schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[World]:
    (tmp_path / "jobs.py").write_text(JOBS)
    world = World(tmp_path, postgres_url, schema_driver.schema)
    async with world.client:
        yield world


class Probe:
    """Asks a worker as Kubernetes does."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.seconds: list[float] = []

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and line of a path."""
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: probe\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        self.seconds.append(time.monotonic() - began)
        writer.close()
        return int(head.split(" ")[1]), body.rstrip("\n")

    async def statuses(self) -> tuple[int, int, int]:
        """Return the statuses of startup, ready and live."""
        startup, ready, live = [(await self.get(path))[0] for path in ("/startupz", "/readyz", "/livez")]
        return startup, ready, live

    async def until(self, path: str, status: int) -> str:
        """Wait until a path answers with a status, and return its line."""
        async with asyncio.timeout(GENEROUS_SECONDS):
            while True:
                found, line = await self.get(path)
                if found == status:
                    return line


async def probe_of(worker: WorkerHarness) -> Probe:
    line = await worker.line("health listening")
    return Probe(int(line["address"].rpartition(":")[2]))


async def test_probes_follow_start_and_stop(world: World) -> None:
    """A worker is ready once it works, and not ready but live while it stops; an idle connection does not delay its end."""
    async with world.worker(**PATIENT) as worker:
        probe = await probe_of(worker)
        first = await probe.statuses()
        _, idle = await asyncio.open_connection("127.0.0.1", probe.port)
        await worker.line("worker started")
        await probe.until("/readyz", 200)
        started = await probe.statuses()
        await world.insert("wait", file="go")
        await world.insert("wait", file="go")
        await world.until_running(2)
        worker.signal(signal.SIGTERM)
        await worker.line("worker stopping")
        stopping = await probe.statuses(), (await probe.get("/readyz"))[1]
        (world.directory / "go").touch()
        code = await worker.wait()
        idle.close()

    # The start may be complete at the second question.
    assert first in {(503, 503, 200), (503, 200, 200), (200, 200, 200)}
    assert started == (200, 200, 200)
    assert (stopping, code) == (((200, 503, 200), "stopping"), 0)


async def test_probe_names_the_line_at_which_the_event_loop_hangs(world: World) -> None:
    """
    While a job computes without a pause, `/livez` fails, and recovers after it.

    The best of 20 answers takes less than 50 ms, because other tests may keep the machine busy.
    """
    async with world.worker() as worker:
        probe = await probe_of(worker)
        await worker.line("worker started")
        await world.insert("compute", seconds=8.0)
        await probe.until("/livez", 503)
        probe.seconds.clear()
        lines = [(await probe.get("/livez"))[1] for _ in range(20)]
        ready, seconds = (await probe.get("/readyz"))[0], min(probe.seconds)
        await probe.until("/livez", 200)

    place = re.escape(f"jobs.py:{LINE} compute")
    assert all(re.fullmatch(rf"event loop hangs for \d\.\d s at [^ ]*{place}", line) for line in lines)
    assert (ready, seconds < PROBE_SECONDS) == (200, True), seconds


async def test_outage_makes_a_worker_unready_and_never_dead(world: World, postgres_url: str) -> None:
    """Without its database a worker is live and not ready; it is ready as soon as the database answers."""
    async with proxied(postgres_url) as proxy, world.worker(DATABASE_URL=proxy.url, **PATIENT) as worker:
        probe = await probe_of(worker)
        await probe.until("/readyz", 200)
        for fail in (proxy.cut, proxy.stop_up):
            fail()
            assert await probe.until("/readyz", 503) == "database unreachable"
            assert await probe.statuses() == (200, 503, 200)
            proxy.restore()
            await probe.until("/readyz", 200)
            await worker.line("database back", count=len(worker.all_lines("database unreachable")))
        assert await worker.stop() == 0


async def test_supervisor_answers_for_its_processes(world: World) -> None:
    """With several processes, one address answers for all: a hung one fails it, a killed one makes it unready."""
    async with world.worker("--processes", "2") as worker:
        probe = await probe_of(worker)
        await worker.line("worker started", count=2)
        assert await probe.until("/readyz", 200) == "ok"
        await world.insert("compute", seconds=3.0)
        hung = await probe.until("/livez", 503)
        await probe.until("/livez", 200)
        assert re.fullmatch(rf"process [01]: event loop hangs for .* at .*jobs.py:{LINE} compute", hung)
        assert len(worker.all_lines("health listening")) == 1
        assert await worker.stop() == 0


async def test_address_in_use_is_an_error(world: World) -> None:
    """A worker that cannot listen ends at once, and names the setting."""
    async with world.worker() as worker:
        line = await worker.line("health listening")
        async with world.worker(MILLHAND_OBSERVE_LISTEN=line["address"]) as other:
            assert await other.wait() == 2

    assert other.errors == (
        "error: MILLHAND_OBSERVE_LISTEN: listen must be a free address of this machine, "
        f"got '{line['address']}': Address already in use\n"
    )


async def test_file_is_touched_while_the_worker_lives(world: World) -> None:
    """The file of `[observe]` exists once the worker runs."""
    file = world.directory / "live"
    async with world.worker(MILLHAND_OBSERVE_FILE=str(file), MILLHAND_OBSERVE_LISTEN="") as worker:
        await worker.line("worker started")
        assert file.exists()
        assert worker.all_lines("health listening") == []


class Systemd:
    """What systemd receives at NOTIFY_SOCKET: assignments, each with its time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: list[tuple[float, str]] = []
        self._changed = asyncio.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    async def read(self) -> None:
        """Read messages until this is cancelled."""
        while True:
            message = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
            async with self._changed:
                now = time.monotonic()
                self.received += [(now, line) for line in message.decode().split("\n")]
                self._changed.notify_all()

    def times(self, line: str) -> list[float]:
        """Return when a line came."""
        return [at for at, received in self.received if received == line]

    async def until(self, line: str, *, count: int = 1) -> float:
        """Wait until a line has come so many times, and return when it last did."""
        async with asyncio.timeout(GENEROUS_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self.times(line)) >= count)
            return self.times(line)[count - 1]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
async def systemd(tmp_path: Path) -> AsyncIterator[Systemd]:
    systemd = Systemd(tmp_path / "notify")
    async with asyncio.TaskGroup() as group:
        reader = group.create_task(systemd.read())
        yield systemd
        reader.cancel()
    systemd.close()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((), "STATUS=working default:10; running jobs: 2"),
        (("--processes", "2"), "STATUS=2 of 2 processes ready"),
    ],
    ids=["one process", "two processes"],
)
async def test_systemd_is_notified_while_the_loop_runs(
    world: World, systemd: Systemd, arguments: tuple[str, ...], status: str
) -> None:
    """It learns of the start, the stop and what runs; the watchdog is not notified while a job holds the event loop."""
    variables = {
        "NOTIFY_SOCKET": str(systemd.path),
        "WATCHDOG_USEC": "1000000",
        "MILLHAND_OBSERVE_LISTEN": "",
    }
    async with world.worker(*arguments, **variables) as worker:
        ready = await systemd.until("READY=1")
        await systemd.until("WATCHDOG=1", count=len(systemd.times("WATCHDOG=1")) + 2)
        await world.insert("compute", seconds=6.0)
        await worker.line("job completed", kind="compute")
        await world.insert("wait", file="go")
        await world.insert("wait", file="go")
        await systemd.until("WATCHDOG=1", count=len(systemd.times("WATCHDOG=1")) + 4)
        await systemd.until(status)
        notified = systemd.times("WATCHDOG=1")
        worker.signal(signal.SIGTERM)
        stopping = await systemd.until("STOPPING=1")
        await systemd.until("EXTEND_TIMEOUT_USEC=30000000", count=3)
        (world.directory / "go").touch()
        code = await worker.wait()

    longest = max(later - earlier for earlier, later in itertools.pairwise(notified))
    assert (code, ready < stopping) == (0, True)
    assert longest > 3.0


@pytest.mark.parametrize("name", ["live", "ready", "startup"])
async def test_probe_command_asks_a_worker(world: World, name: str) -> None:
    """`millhand probe` prints the answer of the worker beside it, and exits with 0."""
    async with world.worker(**PATIENT) as worker:
        line = await worker.line("health listening")
        await (await probe_of(worker)).until("/readyz", 200)
        command = [sys.executable, "-m", "millhand", "probe", name]
        environment = child_environment({"MILLHAND_OBSERVE_LISTEN": line["address"]})
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()

    assert (process.returncode, out) == (0, b"ok\n")


BLOCKING_JOBS = """
import asyncio
import time
from dataclasses import dataclass

from millhand import Config, Job, Workers

workers = Workers()


@dataclass
class Block:
    kind = "block"


@workers.add()
async def make_thumb(job: Job[Block]) -> None:
    pool = job.client._recorded_driver.pool  # as the services of the client use it
    # The answer comes while nobody reads it.
    answer = asyncio.create_task(pool.fetch("SELECT pg_sleep(1)", timeout_seconds=3))
    await asyncio.sleep(0.2)
    time.sleep(8)
    await asyncio.wait([answer])
    print(f'{{"message": "statement ended", "error": "{type(answer.exception()).__name__}"}}', flush=True)


config = Config(workers=workers, queues={"default": 10}, heartbeat_interval=None)
"""


async def test_blocked_loop_is_logged_by_its_line_and_is_no_outage(
    tmp_path: Path, schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """Without `[observe]`: a job that blocks for longer than a statement may take has one line, and the database none."""
    (tmp_path / "jobs.py").write_text(BLOCKING_JOBS)
    line = 1 + BLOCKING_JOBS[: BLOCKING_JOBS.index("time.sleep")].count("\n")
    client = Client(postgres_url, Config(schema=schema_driver.schema, skip_unknown_job_check=True))
    environment = {"DATABASE_URL": postgres_url, "MILLHAND_DATABASE_SCHEMA": schema_driver.schema}
    async with client, started_worker(tmp_path, "jobs:config", environment=environment) as worker:
        await worker.line("leadership gained")
        await client.insert(RawArgs("block", "{}"))
        blocked = await worker.line("event loop blocked")
        await worker.line("statement ended", error="OperationTimeout")
        await worker.line("job completed")
        worker.signal(signal.SIGTERM)
        await worker.line("worker stopped")

    assert re.fullmatch(rf"\S*jobs\.py:{line} make_thumb", blocked["at"])
    assert blocked["seconds"] > 6
    assert blocked["num_hangs"] == 1
    assert "asyncio.to_thread" in blocked["remedy"]
    assert worker.all_lines("database unreachable") == []
