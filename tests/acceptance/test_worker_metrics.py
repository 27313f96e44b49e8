"""Claims about the metrics of real workers, scraped by a real Prometheus: a killed leader, and several processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import urllib.parse
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from worker_harness import WorkerHarness, started_worker

from free_ports import free_ports
from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.insert_opts import InsertOpts
from millhand.db.driver.asyncpg import AsyncpgDriver
from required import missing

pytestmark = pytest.mark.slow

SECONDS = 90.0
PAUSE_SECONDS = 0.2
PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "monitor.md"
# Those that a page recommends, without the one on discarded jobs: the test has one.
ALERTS = [
    one
    for one in re.findall(r"^\| `(.*millhand_.+?)` \|", PAGE.read_text(), re.MULTILINE)
    if "discarded" not in one
]
JOBS = """
import asyncio

from millhand.core.config import Config
from millhand.core.worker import Workers

workers = Workers()


@workers.add(kind="count")
async def count() -> None:
    pass


@workers.add(kind="fail")
async def fail() -> None:
    raise ValueError("no")


config = Config(workers=workers, queues={"default": 10})
"""


async def get(address: str, path: str) -> str:
    """Return the body of an answer with status 200."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    assert head.split(" ")[1] == "200", (path, head, body)
    return body


class Prometheus:
    """Answers queries about what it has scraped."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """Return the values of an instant query, by the values of their labels in the order of the labels' names."""
        text = await get(self._address, f"/api/v1/query?query={urllib.parse.quote(expression)}")
        return {
            tuple(
                value for name, value in sorted(one["metric"].items()) if name not in ("__name__", "job")
            ): float(one["value"][1])
            for one in json.loads(text)["data"]["result"]
        }

    async def until(self, expression: str, expected: dict[tuple[str, ...], float]) -> None:
        """Wait until a query has this result."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SECONDS
        while (found := await self.query(expression)) != expected:
            assert loop.time() < deadline, f"{expression}: {found}, not {expected}"
            await asyncio.sleep(PAUSE_SECONDS)


@asynccontextmanager
async def prometheus(directory: Path, targets: list[str]) -> AsyncIterator[Prometheus]:
    """Start a Prometheus that scrapes targets each second."""
    program = shutil.which("prometheus")
    if program is None:
        missing("prometheus", "there is no prometheus; install Debian's")
    [port] = free_ports(1)
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "millhand", "static_configs": [{"targets": targets}]}],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    arguments = [
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "prometheus.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(program, *arguments, stdout=log, stderr=log)
        try:
            await _ready(port)
            yield Prometheus(f"127.0.0.1:{port}")
        finally:
            process.kill()
            await process.wait()


async def _ready(port: int) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await get(f"127.0.0.1:{port}", "/-/ready")
            except (OSError, AssertionError, IndexError):
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return


class World:
    """A schema, a project with its jobs, and what starts workers there."""

    def __init__(self, directory: Path, url: str, schema: str) -> None:
        self.client = Client(url, Config(schema=schema, skip_unknown_job_check=True))
        self.directory = directory
        self._environment = {
            "DATABASE_URL": url,
            "MILLHAND_DATABASE_SCHEMA": schema,
            "MILLHAND_OBSERVE_LISTEN": "127.0.0.1:0",
        }

    def worker(self, *arguments: str) -> AbstractAsyncContextManager[WorkerHarness]:
        return started_worker(self.directory, "jobs:config", *arguments, environment=self._environment)

    async def insert(self, kind: str, num_jobs: int, opts: InsertOpts | None = None) -> None:
        await self.client.insert_many([(RawArgs(kind, "{}"), opts)] * num_jobs)


@pytest.fixture
async def world(tmp_path: Path, schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[World]:
    (tmp_path / "jobs.py").write_text(JOBS)
    world = World(tmp_path, postgres_url, schema_driver.schema)
    async with world.client:
        yield world


async def address_of(worker: WorkerHarness) -> str:
    address = (await worker.line("health listening"))["address"]
    await worker.line("worker started")
    return str(address)


async def test_prometheus_follows_a_fleet_through_a_killed_leader(world: World) -> None:
    """The figures of a fleet come from one leader; when it is killed, the other worker has them, and its counts go on."""
    async with AsyncExitStack() as stack:
        workers = {}
        for _ in range(2):
            worker = await stack.enter_async_context(world.worker())
            workers[await address_of(worker)] = worker
        seen = await stack.enter_async_context(prometheus(world.directory, [*workers]))
        await seen.until("sum(up)", {(): 2})
        await world.insert("count", 20)
        await world.insert("fail", 1, InsertOpts(max_attempts=1))
        await world.insert(
            "count", 3, InsertOpts(scheduled_at=world.client.config.clock.now() + timedelta(days=1))
        )
        finished = 'sum by (kind, outcome) (millhand_jobs_finished_total{kind!="heartbeat"}) > 0'
        await seen.until(finished, {("count", "completed"): 20, ("fail", "discarded"): 1})
        await seen.until("sum(millhand_job_errors_total)", {(): 1})
        depth = 'max by (queue) (millhand_queue_jobs{state="scheduled"})'
        await seen.until(depth, {("default",): 3})
        await seen.until('max by (state) (millhand_clients{language="python"})', {("working",): 2})
        [[leader]] = await seen.query('sum by (instance) (millhand_leader{leader_role="periodic"} == 1)')
        [other] = workers.keys() - {leader}
        assert {*await seen.query("sum by (instance) (millhand_queue_jobs)")} == {(leader,)}

        for alert in ALERTS:
            assert await seen.query(alert) == {}, alert
        os.kill(workers[leader].pid, signal.SIGKILL)
        await seen.until("up == 0", {(leader,): 0})
        await seen.until('millhand_leader{leader_role="periodic"} == 1', {(other, "periodic"): 1})
        await seen.until("sum(millhand_clients_declared_dead_total)", {(): 1})
        await seen.until(depth, {("default",): 3})
        assert {*await seen.query("sum by (instance) (millhand_queue_jobs)")} == {(other,)}
        counted = 'sum(millhand_jobs_finished_total{kind="count"})'
        before = (await seen.query(counted)).get((), 0)  # the killed one may have worked all
        await world.insert("count", 5)
        await seen.until(counted, {(): before + 5})


async def test_supervisor_serves_a_page_that_prometheus_accepts(world: World) -> None:
    """One page has the metrics of both processes, also after one was killed and restarted, and promtool finds no fault."""
    async with world.worker("--processes", "2") as worker:
        address = (await worker.line("health listening"))["address"]
        await worker.line("worker started", count=2)
        both = await page_until(address, 'process="0"', 'process="1"', "millhand_leader")
        os.kill(pid_of(worker), signal.SIGKILL)
        await worker.line("worker process ended")
        await worker.line("worker started", count=3)
        again = await page_until(address, 'process="0"', 'process="1"')
        assert await worker.stop() == 0

    assert both.count("# TYPE millhand_slots gauge") == again.count("# TYPE millhand_slots gauge") == 1
    promtool = shutil.which("promtool")
    if promtool is None:
        missing("prometheus", "there is no promtool; install Debian's prometheus")
    checked = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert (await checked.communicate(both.encode()), checked.returncode) == ((b"", b""), 0)


def pid_of(supervisor: WorkerHarness) -> int:
    """Return the process id of one of its worker processes."""
    children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
    return int(children[0])


async def page_until(address: str, *parts: str) -> str:
    """Return a page as soon as it has all parts."""
    async with asyncio.timeout(SECONDS):
        while True:
            page = await get(address, "/metrics")
            if all(part in page for part in parts):
                return page
            await asyncio.sleep(PAUSE_SECONDS)
