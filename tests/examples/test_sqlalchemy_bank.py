"""The SQLAlchemy application: transfers ordered on the command line, and a worker that is killed in the middle of one."""

from __future__ import annotations

import os
import signal

import asyncpg
import pytest
from application import commands, run, started

from millhand import Client, JobFilters, JobRow, JobState
from served import until

pytestmark = pytest.mark.slow

BANK = "sqlalchemy_bank"
SOON = {"MILLHAND_WORKER_CLIENT_HEARTBEAT_INTERVAL": "300ms"}


async def test_bank_moves_money_once_although_a_worker_is_killed(empty_url: str) -> None:
    """A worker dies while it moves money; another one carries the transfer out, and no money is lost or made."""
    setup, transfer, work = commands(BANK)
    variables = {"DATABASE_URL": empty_url, **SOON}
    printed = [await run(BANK, command, **variables) for command in (setup, transfer)]
    connection = await asyncpg.connect(empty_url)
    try:
        async with Client(empty_url) as client:

            async def job_when(transfer: int, state: JobState) -> JobRow:
                async def look() -> JobRow:
                    return (await client.jobs.list(JobFilters(kinds=["move_money"]))).jobs[transfer - 1]

                return await until(look, lambda job: job.state is state)

            async with connection.transaction():
                await connection.execute("SELECT FROM accounts FOR UPDATE")  # the worker waits for it
                async with started(BANK, work, **variables) as killed:
                    await job_when(1, JobState.RUNNING)
                    os.kill(killed.pid, signal.SIGKILL)
            async with started(BANK, work, **variables) as working:
                done = await job_when(1, JobState.COMPLETED)
                ordered = await run(BANK, "python -m bank transfer bob ada 500", **variables)
                refused = await job_when(2, JobState.COMPLETED)
                code = await working.stop()
    finally:
        await connection.close()

    shown = await run(BANK, "python -m bank show", **variables)
    assert printed == ["ada and bob have 100 each", "ordered transfer 1, job 1"]
    assert ordered == f"ordered transfer 2, job {refused.id}"
    assert shown.splitlines() == [
        "ada has 70",
        "bob has 130",
        "ada to bob: 30, done",
        "bob to ada: 500, refused",
    ]
    assert [(job.attempt, job.output) for job in (done, refused)] == [(2, "done"), (1, "refused")]
    assert code == 0, working.text
