"""Claims about a real worker with three databases on three servers: one stopped and one cut off while the others work."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from worker_harness import GENEROUS_SECONDS, WorkerHarness, child_environment, started_worker

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from three_servers import SETTINGS_FILE, ThreeServers, three_servers

pytestmark = pytest.mark.slow

JOBS = """
import logging

from millhand import Config, Job, Workers

workers = Workers()


@workers.add(kind="note")
async def note(job: Job) -> None:
    logging.getLogger("shop").info("noted", extra={"noted_in": job.database})


@workers.add(kind="plain")
def plain(job: Job) -> None:
    logging.getLogger("shop").info("noted in a thread", extra={"noted_in": job.database})


@workers.add(kind="die")
async def die() -> None: ...


config = Config(workers=workers, queues={"default": 10}, heartbeat_interval=None)
"""
METRICS = re.compile(rb'^millhand_database_up\{database="(\w+)"\} (\d)', re.MULTILINE)


@pytest.fixture(scope="module")
async def servers() -> AsyncIterator[ThreeServers]:
    """Three servers, which each test leaves running and connected."""
    async with three_servers() as servers:
        yield servers


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A project with a worker and three databases."""
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "millhand.toml").write_text(SETTINGS_FILE)
    return tmp_path


async def insert(url: str, kind: str = "note") -> None:
    async with Client(url, Config(skip_unknown_job_check=True), pool_size=1) as client:
        await client.insert(RawArgs(kind, "{}"))


async def works(worker: WorkerHarness, servers: ThreeServers, name: str, *, count: int) -> None:
    """Insert a job into a database, and return when the worker has worked it under the name of the database."""
    await insert(servers.urls[name])
    noted = await worker.line("noted", count=count, noted_in=name)
    done = await worker.line("job completed", count=count, database=name, kind="note")
    assert (noted["database"], done["queue"]) == (name, "default")


async def asked(address: str, path: str) -> tuple[bytes, bytes]:
    """Return the status line and the body of an answer of the worker."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(GENEROUS_SECONDS):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.splitlines()[0], body


async def command(directory: Path, servers: ThreeServers, *arguments: str) -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "millhand", *arguments),
        cwd=directory,
        env=child_environment(servers.environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(GENEROUS_SECONDS * 2):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_worker_works_on_while_databases_are_away(directory: Path, servers: ThreeServers) -> None:
    """
    One server is stopped before the start, and another is cut off later; the worker and commands go on with the others.

    Log lines, probes and metrics name what is away. Each is worked again when it is back, and one stop ends all of it.
    """
    us_url = servers.us.url
    await servers.us.stop()
    environment = {**servers.environment, "MILLHAND_OBSERVE_LISTEN": "127.0.0.1:0"}
    names = ("--database", "eu,us", "--database", "asia")
    async with started_worker(directory, "jobs:config", *names, environment=environment) as worker:
        address = (await worker.line("health listening"))["address"]
        refused = await worker.line("database not started", database="us")
        assert "must accept connections" in refused["error"]
        for name in ("eu", "asia"):
            await worker.line("worker started", database=name)
            await works(worker, servers, name, count=1)
        status, line = await asked(address, "/readyz")
        assert (status.split()[1], line) == (b"200", b"ok; database unreachable us\n")

        await servers.us.start()
        assert servers.us.url == us_url
        await worker.line("worker started", database="us")
        await works(worker, servers, "us", count=1)
        assert (await asked(address, "/readyz"))[1] == b"ok\n"
        assert dict(METRICS.findall((await asked(address, "/metrics"))[1])) == {
            b"eu": b"1",
            b"us": b"1",
            b"asia": b"1",
        }

        servers.way.cut()
        await worker.line("database unreachable", database="asia")
        await works(worker, servers, "eu", count=2)
        await works(worker, servers, "us", count=2)
        assert (await asked(address, "/readyz"))[1] == b"ok; database unreachable asia\n"
        assert (b"asia", b"0") in METRICS.findall((await asked(address, "/metrics"))[1])
        code, out, err = await command(directory, servers, "job", "list", "--all-databases", "--json")
        assert (code, {job["database"] for job in json.loads(out)}) == (1, {"eu", "us"})
        assert err.startswith("error: database 'asia' must answer, got: ")

        servers.way.restore()
        await worker.line("database back", database="asia")
        await works(worker, servers, "asia", count=2)
        await insert(servers.urls["us"], "plain")
        assert (await worker.line("noted in a thread", database="us"))["noted_in"] == "us"

        assert await worker.stop() == 0
        assert {line["database"] for line in worker.all_lines("worker stopped")} == {"eu", "us", "asia"}
        assert worker.lines[-1]["message"] == "worker stopped"
        # A server that is starting refuses for a reason of its own.
        reasons = [line["error"] for line in worker.all_lines("database not started")]
        assert len(reasons) == len({*reasons})
        assert worker.errors == ""


async def test_worker_stops_gracefully_while_a_database_is_away(
    directory: Path, servers: ThreeServers
) -> None:
    """A database that never answered and one that was lost do not keep a stop from ending with exit code 0."""
    await servers.us.stop()
    async with started_worker(directory, "jobs:config", environment=servers.environment) as worker:
        await worker.line("database not started", database="us")
        for name in ("eu", "asia"):
            await worker.line("worker started", database=name)
        servers.way.cut()
        await worker.line("database unreachable", database="asia")

        code = await worker.stop()
    servers.way.restore()
    await servers.us.start()

    assert code == 0
    assert {line["database"] for line in worker.all_lines("worker stopped")} == {"eu", "us", "asia"}


async def test_worker_exits_if_no_database_answers(directory: Path, servers: ThreeServers) -> None:
    """As with one database, a start without any database fails with the reason and exit code 1."""
    await servers.us.stop()
    servers.way.cut()
    arguments = ("jobs:config", "--database", "us,asia")
    async with started_worker(directory, *arguments, environment=servers.environment) as worker:
        code = await worker.wait()
    servers.way.restore()
    await servers.us.start()

    assert code == 1
    assert worker.errors.startswith("error: database 'postgresql://")
    assert worker.errors.endswith("check that the server runs and that US_DATABASE_URL is right\n")


async def test_one_stopped_server_does_not_keep_an_emptied_worker(
    directory: Path, servers: ThreeServers
) -> None:
    """With --until-empty, the worker works the databases that answer, names the other and exits with 1."""
    await servers.us.stop()
    for name in ("eu", "asia"):
        await insert(servers.urls[name])
    arguments = ("jobs:config", "--until-empty")
    async with started_worker(directory, *arguments, environment=servers.environment) as worker:
        code = await worker.wait()
    await servers.us.start()
    async with started_worker(directory, *arguments, environment=servers.environment) as again:
        again_code = await again.wait()

    assert (code, again_code) == (1, 0)
    assert [line["database"] for line in worker.all_lines("database not started")] == ["us"]
    assert {line["database"] for line in worker.all_lines("job completed", kind="note")} == {"eu", "asia"}


async def test_several_processes_work_several_databases(directory: Path, servers: ThreeServers) -> None:
    """Each process of --processes has a client of each database that the command names."""
    arguments = ("jobs:config", "--processes", "2", "--database", "eu", "--database", "us")
    async with started_worker(directory, *arguments, environment=servers.environment) as worker:
        for name in ("eu", "us"):
            await worker.line("worker started", count=2, database=name)
        assert await worker.stop() == 0

    assert not worker.all_lines("worker started", database="asia")
