"""Workers with the URL of a primary and its standby: the primary crashes, and the standby is promoted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from worker_harness import WorkerHarness, started_worker

from free_ports import free_ports
from millhand import Client, Config, InsertOpts
from millhand.core.args.codec import RawArgs
from millhand.embedded.programs import Programs
from new_schema import migrate
from served import until

pytestmark = pytest.mark.slow

JOBS = """
import asyncio
from pathlib import Path

from millhand import Config, Workers

workers = Workers()


@workers.add(kind="wait")
async def wait(file: str) -> None:
    while not Path(file).exists():
        await asyncio.sleep(0.05)


config = Config(workers=workers, queues={"default": 1}, heartbeat_interval=None)
"""
LONG = 60.0
SLOTS = 2
REPLICATED = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= $1::text::pg_lsn"
RUNNING = "SELECT count(*) FROM river_job WHERE state = 'running'"
UNFINISHED = "SELECT count(*) FROM river_job WHERE state <> 'completed'"


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server at a port of this machine."""

    data: Path
    port: int
    programs: Programs

    @property
    def url(self) -> str:
        """Where it is."""
        return f"postgresql://millhand@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and return when it answers."""
        options = f"-p {self.port} -c fsync=off -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        self._control("start", "-l", self.data / "log", "-o", options)

    def crash(self) -> None:
        """Stop it as a power failure does."""
        os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)

    def stop(self) -> None:
        """Stop it if it runs."""
        if (self.data / "postmaster.pid").exists():
            self._control("stop", "-m", "immediate")

    def promote(self) -> None:
        """Make a standby the primary."""
        self._control("promote")

    def _control(self, *arguments: Path | str) -> None:
        self.programs.run("pg_ctl", "-w", "-t", "120", "-D", self.data, *arguments)


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """A primary, and a standby that streams from it."""
    home = Path(tempfile.mkdtemp(prefix="millhand-failover-", dir="/tmp"))
    home.chmod(0o755)  # the server of root is another user's
    programs = Programs(home)
    (home / "servers").mkdir()
    if programs.switches_user:
        shutil.chown(home / "servers", programs.owner.pw_uid, programs.owner.pw_gid)
    ports = free_ports(2)
    primary, standby = (
        Server(home / "servers" / name, port, programs)
        for name, port in zip(("primary", "standby"), ports, strict=True)
    )
    try:
        programs.run(
            "initdb", "-D", primary.data, "-U", "millhand", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"
        )
        primary.start()
        programs.run(
            "pg_basebackup", "-D", standby.data, "-d", primary.url, "-R", "-c", "fast", "-X", "stream", "-N"
        )
        standby.start()
        yield primary, standby
    finally:
        for server in (standby, primary):
            server.stop()
        shutil.rmtree(home, ignore_errors=True)


def url_of(driver: str, *servers: Server) -> str:
    """Return the URL of several servers, with the name of a driver."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"postgresql+{driver}://millhand@{hosts}/postgres?target_session_attrs=read-write"


@contextlib.asynccontextmanager
async def connected(server: Server) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server.url)
    yield connection
    await connection.close()


async def insert(url: str, num: int, *queues: str, file: str = "go") -> None:
    """Insert so many jobs into each queue. They end when there is the file."""
    args = RawArgs("wait", json.dumps({"file": file}))
    async with Client(url, Config(skip_unknown_job_check=True)) as client:
        for queue in queues:
            await client.insert_many([(args, InsertOpts(queue=queue))] * num)


async def run_and_replicate(primary: Server, num_running: int) -> None:
    """Return when so many jobs run, and the standby has them."""
    async with connected(primary) as connection:
        await until(lambda: connection.fetchval(RUNNING), lambda found: found == num_running)
        written = await connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        await until(lambda: connection.fetchval(REPLICATED, written), bool)


async def detach(standby: Server) -> None:
    """Stop the replication, and return when it has stopped."""
    async with connected(standby) as connection:
        await connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
        await connection.execute("SELECT pg_reload_conf()")
        receivers = "SELECT count(*) FROM pg_stat_wal_receiver"
        await until(lambda: connection.fetchval(receivers), lambda found: found == 0)


async def states(connection: asyncpg.Connection) -> list[str]:
    """Return the states of the first and of the second jobs, "mixed" if they differ."""
    rows = await connection.fetch(
        "SELECT CASE count(DISTINCT state) WHEN 1 THEN min(state::text) ELSE 'mixed' END AS state "
        "FROM river_job GROUP BY args ->> 'file' ORDER BY args ->> 'file'"
    )
    return [row["state"] for row in rows]


def worker_of(directory: Path, driver: str, url: str) -> AbstractAsyncContextManager[WorkerHarness]:
    """Start a worker with the queue that has the driver's name."""
    (directory / "jobs.py").write_text(JOBS)
    arguments = ("jobs:config", "--queue", f"{driver}:{SLOTS}")
    return started_worker(directory, *arguments, environment={"DATABASE_URL": url})


async def test_workers_continue_on_a_promoted_standby(servers: tuple[Server, Server], tmp_path: Path) -> None:
    """
    With both drivers, jobs that were replicated are completed in their first attempt, whether they waited or ran.

    The log has one outage with its end. A client with the same URL inserts jobs before and after, and they are worked.
    """
    primary, standby = servers
    await migrate(primary.url)
    urls = {"asyncpg": url_of("asyncpg", primary, standby), "psycopg": url_of("psycopg", standby, primary)}
    async with contextlib.AsyncExitStack() as stack:
        workers: list[WorkerHarness] = []
        for driver, url in urls.items():
            workers.append(await stack.enter_async_context(worker_of(tmp_path, driver, url)))
        for worker in workers:
            await worker.line("worker started", seconds=LONG)
        await insert(urls["asyncpg"], 2 * SLOTS, *urls)
        await run_and_replicate(primary, len(workers) * SLOTS)
        primary.crash()
        for worker in workers:
            await worker.line("database unreachable", seconds=LONG)
        (tmp_path / "go").touch()
        await asyncio.to_thread(standby.promote)
        for worker in workers:
            await worker.line("database back", seconds=LONG)
        await insert(urls["psycopg"], SLOTS, *urls)
        async with connected(standby) as connection:
            await until(lambda: connection.fetchval(UNFINISHED), lambda found: found == 0)
            rows = await connection.fetch("SELECT queue, attempt, errors FROM river_job")
        codes = [await worker.stop() for worker in workers]

    expected = [(queue, 1, None) for queue in urls for _ in range(3 * SLOTS)]
    assert sorted(tuple(row) for row in rows) == expected
    assert codes == [0, 0]
    for worker in workers:
        outage = [line["message"] for line in worker.lines if line["message"].startswith("database")]
        assert outage == ["database unreachable", "database back"]


async def test_jobs_whose_last_change_was_not_replicated_run_again(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    """
    A job that is still available on the new primary runs again at once; one that is still running, after a restart.

    The worker that had run it still lives, so no leader rescues it before.
    """
    primary, standby = servers
    await migrate(primary.url)
    url = url_of("asyncpg", primary, standby)
    async with worker_of(tmp_path, "asyncpg", url) as worker:
        await worker.line("worker started", seconds=LONG)
        await insert(url, SLOTS, "asyncpg", file="first")
        await insert(url, SLOTS, "asyncpg", file="second")
        await run_and_replicate(primary, SLOTS)
        await detach(standby)
        (tmp_path / "first").touch()
        async with connected(primary) as connection:
            await until(lambda: states(connection), lambda found: found == ["completed", "running"])
        primary.crash()
        await worker.line("database unreachable", seconds=LONG)
        await asyncio.to_thread(standby.promote)
        await worker.line("database back", seconds=LONG)
        (tmp_path / "second").touch()
        async with connected(standby) as connection:
            await until(lambda: states(connection), lambda found: found == ["running", "completed"])
            await worker.line("outcome came too late", count=SLOTS)
            assert await worker.stop() == 0
            async with worker_of(tmp_path, "asyncpg", url) as restarted:
                await until(lambda: states(connection), lambda found: found == ["completed", "completed"])
                assert await restarted.stop() == 0
            attempts = await connection.fetch("SELECT attempt FROM river_job ORDER BY id")

    assert [row["attempt"] for row in attempts] == [2] * SLOTS + [1] * SLOTS
