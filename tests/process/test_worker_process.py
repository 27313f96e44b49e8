"""Claims about the run of a worker process: its end, and exceptions that no task awaits."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from client_harness import GENEROUS
from factory import insert_job
from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config, QueueConfig
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import ClientId, JobState
from millhand.core.limit import Limit, Rate
from millhand.core.periodic import every
from millhand.core.worker import Workers
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.store.leader import LeaderRole, leader_attempt_elect
from millhand.engine.store.queue import queue_create_or_set_updated_at
from millhand.process.worker_process import WorkerProcess, _freeze_start

# A process that has imported the client has more objects.
NUM_OBJECTS_LEAST = 10_000

# In a process of its own, because the garbage collector decides when the loop reports.
PROGRAM = """
import asyncio, gc, logging
from millhand.process.worker_process import run_to_the_end

async def main():
    asyncio.get_running_loop().create_future().set_exception({error})
    gc.collect()

logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(message)s")
run_to_the_end(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "messages"),
    [
        (
            "ConnectionError('unexpected connection_lost() call')",
            'DEBUG connection lost error="unexpected connection_lost() call" error_type=ConnectionError',
        ),
        (
            "ConnectionResetError('reset')",
            "DEBUG connection lost error=reset error_type=ConnectionResetError",
        ),
        ("ValueError('a mistake')", "ERROR Future exception was never retrieved"),
    ],
)
def test_lost_connection_of_an_abandoned_future_is_no_error(error: str, messages: str) -> None:
    """A connection error of an abandoned future is logged at DEBUG; other errors are logged as asyncio does."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error=error)], capture_output=True, text=True, check=True
    )

    levels = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    lines = [line for line in done.stderr.splitlines() if line.startswith(levels) and "selector" not in line]
    assert lines == [messages]


@pytest.mark.slow
async def test_worker_until_empty_logs_due_jobs_in_queues_that_it_does_not_work(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """
    It names the queues of jobs that are due and that it leaves, and how many.

    Jobs that are due later, or done, do not count. A queue that no client works is a warning with a hint.
    """
    caplog.set_level(logging.INFO, "millhand")
    workers = Workers()

    @workers.add(kind="noop")
    async def noop() -> None: ...

    @workers.add(kind="report", insert_opts=InsertOpts(queue="reports"))
    async def report(number: int) -> None: ...

    config = Config(
        heartbeat_interval=None, queues={"default": 1}, schema=schema_driver.schema, workers=workers
    )
    client = Client(schema_driver, config)
    earlier = datetime.now(UTC) - timedelta(minutes=1)
    # As a client in another language does.
    await schema_driver.pool.run(queue_create_or_set_updated_at("mail", now=earlier))
    for queue in ("default", "mail", "mail", "defualt"):
        await insert_job(schema_driver.pool, kind="noop", queue=queue)
    await insert_job(schema_driver.pool, JobState.COMPLETED, kind="noop", queue="done")
    later = datetime.now(UTC) + timedelta(hours=1)
    for queue in ("later", "default"):
        await insert_job(schema_driver.pool, JobState.SCHEDULED, kind="noop", queue=queue, scheduled_at=later)

    async def start() -> Client:
        await client.start()
        return client

    assert await WorkerProcess(until_empty=True).run(start)

    [later_jobs] = [vars(record) for record in caplog.records if record.msg == "jobs left for later"]
    assert (later_jobs["num_jobs"], later_jobs["next_at"], later_jobs["running"]) == (1, later, 0)
    [other] = [vars(record) for record in caplog.records if record.msg == "kinds go into other queues"]
    assert (other["kinds"], other["queues"]) == ("report", "reports")
    left = [vars(record) for record in caplog.records if record.msg == "queues left to others"]
    assert [(one["client_id"], one["queues"], one["num_jobs"]) for one in left] == [(client.id, "mail", 2)]
    [unworked] = [
        vars(record)
        for record in caplog.records
        if "client_id" in vars(record) and record.msg == "queue not worked"
    ]
    fields = [unworked[name] for name in ("levelname", "queue", "num_jobs", "remedy")]
    assert fields == ["WARNING", "defualt", 1, "did you mean 'default'?"]


class LateElectionPool:
    """A pool that answers a bid of an election only after the worker has looked for work twice."""

    def __init__(self, pool: Executor) -> None:
        self._num_looks = 0
        self._pool = pool
        self._looked_twice = asyncio.Event()

    async def run(self, query: Query[Any]) -> Any:
        if query.name == "leader_attempt_elect":
            await self._looked_twice.wait()
        answer = await self._pool.run(query)
        if query.name == "queue_list":
            self._num_looks += 1
            if self._num_looks == 2:
                self._looked_twice.set()
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class LateElectionDriver(AsyncpgDriver):
    late_pool: LateElectionPool | None = None

    @property
    def pool(self) -> Executor:
        self.late_pool = self.late_pool or LateElectionPool(super().pool)
        return self.late_pool  # type: ignore[return-value]  # it is one, by __getattr__


@pytest.mark.slow
@pytest.mark.parametrize(("has_leader", "num_worked"), [(False, 1), (True, 0)])
async def test_worker_until_empty_works_its_periodic_jobs_that_run_on_start(
    schema_driver: AsyncpgDriver, postgres_url: str, *, has_leader: bool, num_worked: int
) -> None:
    """Their first runs are inserted before it stops, however late it is elected; another leader has inserted its own."""
    worked: list[str] = []
    workers = Workers()

    @workers.add(kind="noop")
    async def noop() -> None:
        worked.append("noop")

    config = Config(
        heartbeat_interval=None,
        periodic_jobs=[every(timedelta(hours=1), lambda: RawArgs("noop", "{}"), run_on_start=True)],
        queues={"default": 1},
        schema=schema_driver.schema,
        workers=workers,
    )
    if has_leader:
        for role in LeaderRole:
            leader = leader_attempt_elect(
                leader_id=ClientId("other"), ttl=timedelta(hours=1), leader_role=role
            )
            await schema_driver.pool.run(leader)
    late = LateElectionDriver(postgres_url, schema_driver.schema)
    client = Client(schema_driver if has_leader else late, config)

    async def start() -> Client:
        await client.start()
        return client

    async with asyncio.timeout(GENEROUS):
        assert await WorkerProcess(until_empty=True).run(start)
    await late.close()
    assert worked == ["noop"] * num_worked


@pytest.mark.slow
async def test_full_collections_leave_out_the_objects_of_the_first_start(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """When a worker works its first job, modules and settings are frozen; the start of a second client freezes no more."""
    num_frozen: list[int] = []
    processes: list[WorkerProcess] = []
    workers = Workers()

    @workers.add(kind="noop")
    async def noop() -> None:
        num_frozen.append(gc.get_freeze_count())
        processes[-1].stop()

    async def work_one() -> None:
        driver = AsyncpgDriver(postgres_url, schema_driver.schema)
        config = Config(
            fetch_poll_interval=timedelta(milliseconds=50),
            heartbeat_interval=None,
            queues={"default": 1},
            workers=workers,
        )
        client = Client(driver, config)
        inserts: list[asyncio.Task[object]] = []

        async def start() -> Client:
            await client.start()
            # No task runs between the end of the start and the freeze, so the job is there after it.
            inserts.append(asyncio.create_task(insert_job(schema_driver.pool, kind="noop")))
            return client

        processes.append(WorkerProcess(until_empty=False))
        async with asyncio.timeout(GENEROUS):
            assert await processes[-1].run(start)
            await asyncio.gather(*inserts)

    gc.unfreeze()
    _freeze_start.cache_clear()
    try:
        await work_one()
        of_jobs = [[number] for number in range(NUM_OBJECTS_LEAST)]
        await work_one()
    finally:
        gc.freeze()  # as `conftest.py` left it

    assert num_frozen[0] > NUM_OBJECTS_LEAST
    assert num_frozen[1] < num_frozen[0] + len(of_jobs)


@pytest.mark.slow
async def test_worker_until_empty_works_jobs_that_wait_for_slots(schema_driver: AsyncpgDriver) -> None:
    """A job that waits for its limit is work that is left, whatever state River sees."""
    worked: list[str] = []
    workers = Workers()

    @workers.add(kind="noop")
    async def noop() -> None:
        worked.append("noop")

    limit = Limit(rate=Rate(2, per=timedelta(seconds=1), burst=1))
    queues = {"rated": QueueConfig(max_workers=5, limit=limit)}
    client = Client(schema_driver, Config(heartbeat_interval=None, queues=queues, workers=workers))
    for _ in range(3):
        await insert_job(schema_driver.pool, kind="noop", queue="rated")

    async def start() -> Client:
        await client.start()
        return client

    async with asyncio.timeout(GENEROUS):
        assert await WorkerProcess(until_empty=True).run(start)
    assert worked == ["noop"] * 3
