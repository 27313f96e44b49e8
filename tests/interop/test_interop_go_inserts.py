"""The example in examples/go_inserts: a Go program takes an order with River, and a Python worker works its job."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from go_build import built

from millhand import Client, JobFilters, JobState
from served import until
from user_programs import PROJECT, fresh_database

sys.path.append(str(PROJECT / "tests" / "examples"))
from application import EXAMPLES, commands, run, started

GO = "go_inserts"


@pytest.fixture
async def url(postgres_server_url: str) -> AsyncIterator[str]:
    """The URL of an empty database."""
    async with fresh_database(postgres_server_url, is_migrated=False) as url:
        yield url


async def test_python_works_what_go_inserts(url: str) -> None:
    """The Python worker writes the invoice of an order that Go commits with its job; a refused order has no job."""
    migrate, insert, work = commands(GO)
    assert insert.startswith("go run . ")
    program, arguments = built("go-inserts", EXAMPLES / GO), shlex.split(insert)[3:]
    await run(GO, migrate, DATABASE_URL=url)
    taken = await go(program, *arguments, url=url)
    declined = await go(program, "bob@example.com", "0", url=url)
    async with started(GO, work, DATABASE_URL=url) as worker, Client(url) as client:
        job = await until(lambda: client.jobs.get(1), lambda row: row.state is JobState.COMPLETED)
        num_jobs = len((await client.jobs.list(JobFilters(kinds=["write_invoice"]))).jobs)
        code = await worker.stop()

    assert (taken.returncode, taken.stdout) == (0, "order 1 has job 1\n"), taken.stderr
    assert (declined.returncode, declined.stdout) == (1, "")
    assert "orders_quantity_check" in declined.stderr
    assert (num_jobs, job.queue, job.max_attempts, job.output) == (
        1,
        "python",
        5,
        "ada@example.com: 3 pieces",
    )
    assert await invoices(url) == ["ada@example.com: 3 pieces"]
    assert code == 0, worker.text


async def go(program: Path, *arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run the Go program."""
    return await asyncio.to_thread(
        subprocess.run,
        [program, *arguments],
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


async def invoices(url: str) -> list[str]:
    """Return the invoices of all orders."""
    connection = await asyncpg.connect(url)
    try:
        return [row["invoice"] for row in await connection.fetch("SELECT invoice FROM orders ORDER BY id")]
    finally:
        await connection.close()
