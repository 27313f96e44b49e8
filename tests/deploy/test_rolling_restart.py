"""Pods of the Helm chart are replaced and removed while jobs are inserted, as Kubernetes does it: no job is lost."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import asyncpg
import pytest
from test_helm_chart import of_kind

from millhand import Client, Config, InsertOpts
from millhand.core.args.codec import RawArgs
from served import Served, served, until
from user_programs import fresh_database

pytestmark = pytest.mark.slow

JOBS = """
import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from millhand import Config, Job, Workers

workers = Workers()


@dataclass(frozen=True)
class Work:
    kind: ClassVar[str] = "work"
    is_long: bool


def note(job: Job[Work], event: str) -> None:
    with Path("runs").open("a") as file:  # appended, so the lines of all processes are in order
        file.write(f"{job.id} {event}\\n")


@workers.add()
async def work(job: Job[Work]) -> None:
    note(job, "begin")
    try:
        if not job.args.is_long:
            await asyncio.sleep(0.2)
        while job.args.is_long and not Path("released").exists():
            await asyncio.sleep(0.05)
    except asyncio.CancelledError:
        while not Path(f"probed {os.getpid()}").exists():
            await asyncio.sleep(0.05)
        note(job, "interrupted")
        raise
    note(job, "done")


config = Config(workers=workers, queues={"default": 4, "long": 1}, heartbeat_interval=None)
"""
SOFT_STOP_SECONDS = 2
NUM_LONG = 8  # more than the pods that are stopped, each with one
NUM_WAITING = 40  # so that no pod is ever idle
RUNS = re.compile(r"(begin interrupted )*begin done")
RUNNING_ON = """
SELECT count(*) FROM river_job
WHERE state = 'running' AND queue = 'long' AND attempted_by [1] = (SELECT id FROM millhand_client WHERE pid = $1)
"""


@dataclass(frozen=True)
class Pod:
    """What the chart says about a pod."""

    command: list[str]
    environment: dict[str, str]
    grace_seconds: int


@dataclass(frozen=True)
class RunningPod:
    """A pod that is ready, and the port of its probes."""

    process: Served
    port: int

    async def status(self, path: str) -> int:
        """Return the status of a probe."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: probe\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return int(answer.split(b" ")[1])


class Fleet:
    """Pods on one database."""

    def __init__(self, pod: Pod, directory: Path, url: str, connection: asyncpg.Connection) -> None:
        self._directory = directory
        self._pod = pod
        self._stack = contextlib.AsyncExitStack()
        self._turn = asyncio.Lock()
        self.connection = connection
        self.probes: list[tuple[int, int]] = []
        self.stopped: list[Served] = []
        self.url = url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._stack.aclose()

    async def count(self, query: str, *arguments: object) -> int:
        """Return a number from the database."""
        async with self._turn:
            return await self.connection.fetchval(query, *arguments)  # type: ignore[no-any-return]

    async def start(self) -> RunningPod:
        """Start a pod, and return when it is ready."""
        # Pods have an address each, and the chart gives all of them the same port.
        variables = self._pod.environment | {
            "DATABASE_URL": self.url,
            "MILLHAND_OBSERVE_LISTEN": "127.0.0.1:0",
        }
        process = await self._stack.enter_async_context(
            served(["-m", *self._pod.command], self._directory, **variables)
        )
        port = await process.found(r'"health listening".*127\.0\.0\.1:(\d+)')
        pod = RunningPod(process, int(port))
        await until(lambda: pod.status("/readyz"), lambda status: status == 200)
        return pod

    async def stop(self, pod: RunningPod) -> None:
        """Stop a pod with a long job within its grace period, and ask its probes while the job cleans up."""
        await until(lambda: self.count(RUNNING_ON, pod.process.pid), bool)
        pod.process.terminate()
        async with asyncio.timeout(self._pod.grace_seconds):
            await pod.process.found('"worker stopping"')
            self.probes.append((await pod.status("/readyz"), await pod.status("/livez")))
            (self._directory / f"probed {pod.process.pid}").touch()
            assert await pod.process.ended() == 0, pod.process.text
        self.stopped.append(pod.process)

    async def insert(self, client: Client, enough: asyncio.Event) -> int:
        """Insert jobs for as long as it takes, no more than wait for a pod, and return how many."""
        opts = InsertOpts(queue="long")
        await client.insert_many([(RawArgs("work", '{"is_long": true}'), opts)] * NUM_LONG)
        num = NUM_LONG
        waiting = "SELECT count(*) FROM river_job WHERE queue = 'default' AND state = 'available'"
        while not enough.is_set():
            await until(lambda: self.count(waiting), lambda found: found < NUM_WAITING or enough.is_set())
            await client.insert_many([RawArgs("work", '{"is_long": false}')] * 10)
            num += 10
        return num


@pytest.fixture(scope="module")
def pod() -> Pod:
    """What the chart says about a pod with a short soft stop."""
    deployment = of_kind("Deployment", "config=jobs:config", f"softStopSeconds={SOFT_STOP_SECONDS}")
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    environment = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    return Pod(container["args"], environment, spec["terminationGracePeriodSeconds"])


@pytest.fixture
async def fleet(pod: Pod, postgres_server_url: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    (tmp_path / "jobs.py").write_text(JOBS)
    async with fresh_database(postgres_server_url) as url:
        connection = await asyncpg.connect(url)
        async with Fleet(pod, tmp_path, url, connection) as fleet:
            yield fleet
        await connection.close()


async def test_rolling_restart_and_scale_down_lose_no_job(pod: Pod, fleet: Fleet, tmp_path: Path) -> None:
    """
    Three pods are replaced, then two of them removed, while jobs are inserted: each job is completed in its first attempt.

    Each pod ends within its grace period, with exit code 0 and an interrupted job. While it stops it is live and not ready.
    A job that was interrupted runs again after its end, and no other job runs twice.
    """
    enough = asyncio.Event()
    async with Client(fleet.url, Config(skip_unknown_job_check=True)) as client, asyncio.TaskGroup() as group:
        pods = [await fleet.start() for _ in range(3)]
        inserted = group.create_task(fleet.insert(client, enough))
        for old in list(pods):  # as with `maxSurge: 1, maxUnavailable: 0`
            pods.append(await fleet.start())
            await fleet.stop(old)
            pods.remove(old)
        last, *others = pods
        await asyncio.gather(*map(fleet.stop, others))
        enough.set()
        num_inserted = await inserted
        (tmp_path / "released").touch()
        unfinished = "SELECT count(*) FROM river_job WHERE state <> 'completed'"
        await until(lambda: fleet.count(unfinished), lambda found: found == 0)
        assert await last.process.stop() == 0
    rows = await fleet.connection.fetch("SELECT id, attempt, errors FROM river_job")

    runs: dict[int, list[str]] = defaultdict(list)
    for line in (tmp_path / "runs").read_text().splitlines():
        number, event = line.split()
        runs[int(number)].append(event)
    unlike = {number: events for number, events in runs.items() if not RUNS.fullmatch(" ".join(events))}
    assert (len(rows), {row["id"] for row in rows}, unlike) == (num_inserted, set(runs), {})
    assert [row for row in rows if (row["attempt"], row["errors"]) != (1, None)] == []
    assert sum("interrupted" in events for events in runs.values()) >= len(fleet.stopped)
    assert (len(fleet.stopped), set(fleet.probes)) == (5, {(503, 200)})
    for process in (*fleet.stopped, last.process):
        assert '"worker stopped"' in process.text
        assert '"level":"error"' not in process.text
