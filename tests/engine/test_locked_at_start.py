"""A client that starts while another transaction has locked the rows that its start writes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from client_harness import GENEROUS, Act, ClientHarness, until
from millhand.client import Client
from millhand.core.config import QueueConfig
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.limit import Limit
from millhand.core.schedule import JobSchedule
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.limits.store import limit_set
from millhand.testing import Probe

LIMITED = "limited"
TWO, THREE = Limit(at_once=2), Limit(at_once=3)
NIGHTLY = JobSchedule(id="nightly", cron="0 3 * * *", args=Act("nightly"))
WEEKLY = JobSchedule(id="nightly", cron="0 3 * * 0", args=Act("nightly"))
LOCK_LIMIT = "UPDATE millhand_limit SET updated_at = now()"
LOCK_SCHEDULE = "UPDATE millhand_schedule SET updated_at = now()"


@asynccontextmanager
async def transaction(harness: ClientHarness, *statements: str) -> AsyncIterator[int]:
    """Keep a transaction open in which statements have run, and return the pid of its session; roll it back at the end."""
    connection = await asyncpg.connect(harness.url_as("the_holder"))
    try:
        await connection.execute(f"BEGIN; {'; '.join(statements)}")
        yield connection.get_server_pid()
    finally:
        await connection.close()


def workers() -> Workers:
    workers = Workers()

    @workers.add()
    async def act(_job: Job[Act]) -> None:
        """Do nothing."""

    return workers


def client_of(harness: ClientHarness, limit: Limit = THREE, **settings: object) -> Client:
    queues = {"default": 10, LIMITED: QueueConfig(max_workers=4, limit=limit)}
    return harness.client(workers(), **{"queues": queues, **settings})


@pytest.fixture(autouse=True)
def _whole_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def logged(caplog: pytest.LogCaptureFixture, message: str, **fields: str) -> str:
    """Wait for a line of the log with these fields, and return its error."""
    found: list[str] = []

    def is_logged() -> bool:
        lines = [vars(one) for one in caplog.records if one.msg == message]
        found[:] = [one.get("error", "") for one in lines if fields.items() <= one.items()]
        return bool(found)

    await until(is_logged)
    return found[0]


async def completed(harness: ClientHarness, client: Client, queue: str = "default") -> None:
    """Work one job of a queue."""
    with client.subscribe() as events:
        await client.insert(Act("a"), InsertOpts(queue=queue))
        assert (await harness.next(events)).kind is EventKind.JOB_COMPLETED


async def limit_of(harness: ClientHarness) -> list[int]:
    return [row["at_once"] for row in await harness.driver.pool.fetch("SELECT at_once FROM millhand_limit")]


@pytest.mark.slow
async def test_client_starts_beside_a_transaction_that_has_changed_a_limit(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """It works its queues by the limit that is there, logs who holds the lock, and declares its own limit afterwards."""
    await harness.driver.pool.run(limit_set(LIMITED, TWO))
    async with transaction(harness, LOCK_LIMIT) as pid, client_of(harness) as client:
        await completed(harness, client)
        await completed(harness, client, LIMITED)
        error = await logged(caplog, "limit not declared yet", queue=LIMITED)
        during = await limit_of(harness)
    async with client_of(harness) as client:
        pass

    assert f"got a lock of pid {pid} of the_holder in a transaction of " in error
    assert error.endswith(f"to end that transaction: SELECT pg_terminate_backend({pid})")
    assert (during, await limit_of(harness)) == ([2], [3])


@pytest.mark.slow
async def test_limit_is_declared_when_the_transaction_ends(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that started beside a transaction declares its limit once that ends, without a restart."""
    await harness.driver.pool.run(limit_set(LIMITED, TWO))
    async with asyncio.timeout(GENEROUS):
        async with transaction(harness, LOCK_LIMIT):
            client = client_of(harness)
            await client.start()
            await logged(caplog, "limit not declared yet", queue=LIMITED)
        await logged(caplog, "limit declared", queue=LIMITED)
        await client.stop()

    assert await limit_of(harness) == [3]


@pytest.mark.slow
async def test_no_job_starts_before_a_new_limit_is_declared(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """While another transaction inserts the limit of a queue, its jobs wait; they start when the limit is declared."""
    columns = "queue, at_once, by_args, by_kind, in_order, is_shared"
    insert = f"INSERT INTO millhand_limit ({columns}) VALUES ('{LIMITED}', 9, '{{}}', false, false, false)"
    client = client_of(harness)
    with client.subscribe() as events:
        async with transaction(harness, insert):
            await client.start()
            await client.insert(Act("a"), InsertOpts(queue=LIMITED))
            await logged(caplog, "limit not declared yet", queue=LIMITED)
            producer = client._engine.queues.producers[LIMITED]  # type: ignore[union-attr]
            probe = Probe(producer)
            producer.request_fetch()
            await probe.wait("fetched")
            await completed(harness, client)
            waiting = await harness.driver.pool.fetch(
                f"SELECT state::text FROM river_job WHERE queue = '{LIMITED}'"
            )
        ended = [await harness.next(events), await harness.next(events)]
    await client.stop()

    assert [one["state"] for one in waiting] == [JobState.AVAILABLE.value]
    assert [one.queue for one in ended] == ["default", LIMITED]
    assert await limit_of(harness) == [3]


@pytest.mark.slow
async def test_client_starts_beside_a_transaction_that_has_changed_a_schedule(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """It works its queues, logs which schedule waits for whom, and declares it once that transaction ends."""
    async with client_of(harness, schedules=[NIGHTLY]):
        pass
    async with transaction(harness, LOCK_SCHEDULE) as pid:
        client = client_of(harness, schedules=[WEEKLY])
        await client.start()
        await completed(harness, client)
        error = await logged(caplog, "schedule not declared yet", schedule_id="nightly")
    caplog.clear()
    await logged(caplog, "schedule declared", schedule_id="nightly")
    found = await client.schedules.get("nightly")
    await client.stop()

    assert f"pid {pid} of the_holder" in error
    assert found.schedule.cron == WEEKLY.cron


@pytest.mark.slow
async def test_client_starts_while_limit_and_schedule_are_locked(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """With both locked, and no more connections than waits, a client starts, names both, and stops at once."""
    async with client_of(harness, TWO, schedules=[NIGHTLY]):
        pass
    async with (
        transaction(harness, LOCK_LIMIT, LOCK_SCHEDULE) as pid,
        client_of(harness, schedules=[WEEKLY]) as client,
    ):
        await completed(harness, client)
        errors = [
            await logged(caplog, "limit not declared yet", queue=LIMITED),
            await logged(caplog, "schedule not declared yet", schedule_id="nightly"),
        ]

    assert [f"pid {pid} of the_holder" in error for error in errors] == [True, True]


@pytest.mark.slow
async def test_client_starts_while_the_row_of_its_queue_is_locked(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """It works the queue, paused or not as its row says, and updates the row once the transaction ends."""
    async with client_of(harness):
        pass
    [before] = await harness.driver.pool.fetch("SELECT updated_at FROM river_queue WHERE name = 'default'")
    await harness.execute(f"UPDATE river_queue SET paused_at = now() WHERE name = '{LIMITED}'")
    async with transaction(harness, "UPDATE river_queue SET metadata = '{}'") as pid:
        client = client_of(harness)
        await client.start()
        await completed(harness, client)
        error = await logged(caplog, "pass failed", operation="QueuePoller")
        is_paused = client._engine.queues.producers[LIMITED].is_paused  # type: ignore[union-attr]
    update = "SELECT 1 FROM river_queue WHERE name = 'default' AND updated_at > $1"
    async with asyncio.timeout(GENEROUS):
        while not await harness.driver.pool.fetch(update, [before["updated_at"]]):  # noqa: ASYNC110 - sends no event
            await asyncio.sleep(0)
    await client.stop()

    assert is_paused
    assert f"pid {pid} of the_holder" in error


@pytest.mark.slow
async def test_client_starts_while_its_own_row_is_locked(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """It fetches no job before its row is written, because its jobs would not be rescued, and logs who holds the lock."""
    async with client_of(harness, client_id="mine"):
        pass
    async with transaction(harness, "UPDATE millhand_client SET version = 'x'") as pid:
        client = client_of(harness, client_id="mine")
        await client.start()
        with client.subscribe() as events:
            await client.insert(Act("a"))
            error = await logged(caplog, "client heartbeat failed")
            states = [row.state for row in await harness.rows()]
            holds = f"pid {pid} of the_holder" in error
            await _terminate(harness, pid)
            ended = await harness.next(events)
    await client.stop()

    assert (states, holds, ended.kind) == ([JobState.AVAILABLE], True, EventKind.JOB_COMPLETED)


async def _terminate(harness: ClientHarness, pid: int) -> None:
    await harness.execute(f"SELECT pg_terminate_backend({pid})")


@pytest.mark.slow
async def test_queue_is_added_while_its_limit_is_locked(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue that is added at run time works by the limit that is there, and its own is declared afterwards."""
    await harness.driver.pool.run(limit_set("added", TWO))
    async with harness.client(workers()) as client:
        async with transaction(harness, LOCK_LIMIT):
            await client.add_queue("added", QueueConfig(max_workers=4, limit=THREE))
            await completed(harness, client, "added")
        await logged(caplog, "limit declared", queue="added")

    assert await limit_of(harness) == [3]


PROGRAM = """
from datetime import timedelta
from dataclasses import dataclass
from millhand import Config, Job, JobSchedule, Limit, QueueConfig, Workers

workers = Workers()

@dataclass
class Act:
    kind = "act"
    what: str

@workers.add()
async def act(job: Job[Act]) -> None:
    print("worked", job.args.what, flush=True)

config = Config(
    workers=workers,
    queues={"default": 2, "limited": QueueConfig(max_workers=2, limit=Limit(at_once=3))},
    schedules=[JobSchedule(id="nightly", cron="0 3 * * 0", args=Act("nightly"))],
)
"""


@pytest.mark.slow
async def test_worker_that_waits_for_locks_works_and_stops_on_sigterm(
    harness: ClientHarness, tmp_path: Path
) -> None:
    """`millhand worker` starts beside the transaction, works a job, logs what it waits for, and exits with 0 on SIGTERM."""
    async with client_of(harness, TWO, schedules=[NIGHTLY]) as client:
        await client.insert(Act("by the process"), InsertOpts(queue="later"))
    await harness.execute("UPDATE river_job SET queue = 'default'")
    (tmp_path / "shop.py").write_text(PROGRAM)
    environment = {**os.environ, "DATABASE_URL": harness.url, "PYTHONPATH": str(tmp_path)}
    async with transaction(harness, LOCK_LIMIT, LOCK_SCHEDULE):
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "millhand", "worker", "shop:config"),
            cwd=tmp_path,
            env=environment,
            stderr=asyncio.subprocess.STDOUT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert worker.stdout is not None
        lines: list[str] = []
        wanted = {"worked by the process", "limit not declared yet", "schedule not declared yet"}
        async with asyncio.timeout(GENEROUS):
            while wanted:
                lines.append((await worker.stdout.readline()).decode())
                assert lines[-1], "".join(lines)
                wanted = {one for one in wanted if one not in lines[-1]}
            worker.send_signal(signal.SIGTERM)
            rest = (await worker.communicate())[0].decode()

    assert worker.returncode == 0, "".join(lines) + rest
