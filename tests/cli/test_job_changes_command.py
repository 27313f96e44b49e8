"""Claims about changes of several jobs: what happens while a command asks, and when it is interrupted."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import UTC, datetime

import psycopg
import pytest

from answering_terminal import AnsweringTerminal
from cli_runner import millhand
from dead_jobs import until_blocked
from factory import get_job, insert_job, qualified
from lent_schema import GENEROUS_SECONDS
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver

pytestmark = pytest.mark.usefixtures("project")


@pytest.mark.parametrize(
    ("arguments", "before", "after"),
    [
        (("retry", "--kind", "charge"), JobState.RETRYABLE, JobState.COMPLETED),
        (("delete", "--state", "discarded"), JobState.DISCARDED, JobState.AVAILABLE),
        (("cancel", "--state", "available"), JobState.AVAILABLE, JobState.RUNNING),
    ],
)
async def test_job_commands_leave_a_job_that_changes_during_the_question(
    schema_driver: AsyncpgDriver,
    monkeypatch: pytest.MonkeyPatch,
    postgres_url: str,
    arguments: tuple[str, ...],
    before: JobState,
    after: JobState,
) -> None:
    """A job that the filter no longer selects after the answer stays as it is, and the exit code is 1."""
    first, second = [await insert_job(schema_driver.pool, before, kind="charge") for _ in range(2)]
    change = qualified(
        "UPDATE /* schema */river_job SET state = %(state)s, finalized_at = %(ended_at)s WHERE id = %(id)s",
        schema_driver.pool,
    )

    def meanwhile() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            ended_at = datetime.now(UTC) if after.is_finalized else None
            connection.execute(change, {"id": first.id, "state": after.value, "ended_at": ended_at})

    monkeypatch.setattr("sys.stdin", AnsweringTerminal(meanwhile))
    result = await millhand("job", *arguments)

    assert (result.code, result.out.strip()) == (1, str(second.id))
    assert result.err.endswith(
        f" 1 job\nerror: job must still be in a state that the filter selects, got job {first.id} {after}\n"
    )
    assert (await get_job(schema_driver.pool, first.id)).state is after


@pytest.mark.slow
async def test_ctrl_c_prints_the_jobs_that_were_changed_before(schema_driver: AsyncpgDriver) -> None:
    """Each batch is committed at once, so an interrupted command prints the ids and the number of its changes."""
    first, second = [await insert_job(schema_driver.pool, JobState.DISCARDED) for _ in range(2)]
    arguments = ("-m", "millhand", "job", "delete", "--state", "discarded", "--yes")
    async with schema_driver.pool.begin() as other:
        lock = "SELECT id FROM /* schema */river_job WHERE id = $1 FOR UPDATE"
        await other.fetch(qualified(lock, schema_driver.pool), [second.id])
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        ended = asyncio.create_task(process.communicate())
        await until_blocked(schema_driver.pool, ended, by=other)
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(ended, GENEROUS_SECONDS)

    assert (process.returncode, out.decode(), err.decode()) == (
        130,
        f"{first.id}\n",
        "deleted 1 job\n\nerror: interrupted; nothing more was done\n",
    )
