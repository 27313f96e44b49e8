"""A fleet that works on a server with PostgreSQL's own settings: `millhand doctor` finds nothing and sees everything."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from client_harness import until
from factory import GENEROUS_SECONDS
from millhand import Client, Config, EventKind, Job, Workers, every
from millhand.doctor.catalog import CHECKS
from millhand.embedded import embedded_postgres
from user_programs import environment

pytestmark = pytest.mark.slow


@dataclass
class Mail:
    kind: ClassVar[str] = "mail"
    to: str = "a"


@pytest.fixture
def server_url() -> Iterator[str]:
    """The URL of a server of its own, with PostgreSQL's defaults."""
    directory = Path(tempfile.mkdtemp(prefix="millhand-doctor-"))
    directory.chmod(0o755)
    with embedded_postgres(directory / "postgres") as server:
        yield server.url
    shutil.rmtree(directory, ignore_errors=True)


async def test_fleet_that_works_has_no_finding(server_url: str, tmp_path: Path) -> None:
    """With a leader, finished jobs, a periodic job and a store, every check is in order; a busy machine may be slow."""
    workers = Workers()

    @workers.add()
    async def mail(job: Job[Mail]) -> None: ...

    (tmp_path / "objects").mkdir()
    (tmp_path / "millhand.toml").write_text('[storage]\nurl = "file:./objects"\n')
    config = Config(
        workers=workers,
        queues={"default": 5},
        periodic_jobs=[every(timedelta(hours=1), Mail(), id="hourly", run_on_start=True)],
    )
    client = Client(server_url, config)
    await client.migrate()
    async with client:
        with client.subscribe() as events:
            await client.insert_many([Mail() for _ in range(50)])
            async with asyncio.timeout(GENEROUS_SECONDS):
                for _ in range(51):  # one of them is the periodic job
                    assert (await anext(events)).kind is EventKind.JOB_COMPLETED
        await until(lambda: client.is_leader and client.is_periodic_leader)
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "millhand",
            "doctor",
            "--json",
            cwd=tmp_path,
            env=environment(DATABASE_URL=server_url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        took = time.monotonic() - began

    report = json.loads(out)
    faults = [
        one
        for one in report["checks"]
        if one["unseen"] or (one["findings"] and one["check"] != "connection.latency")
    ]
    assert (process.returncode, faults, err) == (0, [], b"")
    assert [one["check"] for one in report["checks"]] == [
        check.name for check in CHECKS if check.area != "deploy"
    ]
    assert 0 < report["seconds"] < took
    assert not list((tmp_path / "objects").rglob("*doctor*/*"))
