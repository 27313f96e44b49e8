"""A caller that cancels a call at any moment leaves the pool whole and the log silent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import inspect
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from random_turns import some_turns
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.core.blob import Blob, BlobReference
from millhand.core.config import Config, QueueConfig
from millhand.core.errors import (
    ConfigError,
    ConnectionLost,
    JobNotRunning,
    JobNotWaiting,
    MillhandError,
    NotFound,
    WaitTimeout,
)
from millhand.core.schedule import JobSchedule
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.psycopg import PsycopgDriver
from millhand.db.driver.sqlalchemy import EnginePool
from millhand.engine.control import JobPage
from millhand.engine.store.job_list import JobFilters
from millhand.flows.flow import Flow
from repeats import first_of

APPLICATION = "millhand_cancelled"
IS_OLD = tuple(map(int, asyncpg.__version__.split(".")[:2])) < (0, 32)
POOL_SIZE = 3
TURNS_MAX = 60  # of the event loop: longer than most calls take
MOMENT = timedelta(seconds=0.01)
SMALL_BLOB = Blob(BlobReference(size=1, sha256=hashlib.sha256(b"x").hexdigest(), data=b"x"))
# The jobs of a flow that is retried may be deleted: a MillhandError that has no class of its own.
ANSWERS = {asyncio.CancelledError, JobNotRunning, JobNotWaiting, MillhandError, NotFound, WaitTimeout, None}
# What Millhand logs about an outage.
OUTAGE = {"database unreachable", "database back", "listener lost", "stranded jobs found"}

# Without these while sessions end: a service whose start fails then, and is cancelled too, is logged as crashed.
STARTS = {"add_queue", "remove_queue", "start", "stop", "wait_crashed"}

Call = Callable[[], Awaitable[object]]
DriverType = type[AsyncpgDriver | PsycopgDriver]


class Calls:
    """Every public call of a client, and of the parts that it has for control."""

    def __init__(self, client: Client, driver_type: DriverType, url: str) -> None:
        self._client = client
        self._driver_type = driver_type
        self._others: list[Client] = []
        self._url = url

    def by_name(self) -> Mapping[str, Call]:
        client, jobs, queues = self._client, self._client.jobs, self._client.queues
        dead, flows, limits, schedules = client.dead, client.flows, client.limits, client.schedules
        schedule = JobSchedule(id="kept", args=Act("x"), cron="@yearly")
        return {
            "add_queue": lambda: self._started(
                lambda other: other.add_queue("second", QueueConfig(max_workers=1))
            ),
            "attempts.checkpoint": lambda: self._in_transaction(client.attempts.checkpoint),
            "attempts.complete": lambda: self._in_transaction(client.attempts.complete),
            "blobs.aclose": client.blobs.aclose,
            "blobs.download": lambda: client.blobs.download(SMALL_BLOB, Path(os.devnull)),
            "blobs.get": lambda: client.blobs.get(SMALL_BLOB),
            "blobs.put": lambda: client.blobs.put(b"x"),
            "clients.list": client.clients.list,
            "dead.delete": lambda: _if_found(dead.delete(1)),
            "dead.get": lambda: _if_found(dead.get(1)),
            "dead.list": dead.list,
            "dead.retry": lambda: _if_found(dead.retry(1)),
            "flows.cancel": lambda: _if_found(flows.cancel(1)),
            "flows.get": lambda: _if_found(flows.get(1)),
            "flows.list": flows.list,
            "flows.retry": lambda: _if_found(flows.retry(1)),
            "flows.tasks": lambda: _if_found(flows.tasks(1)),
            "insert": lambda: client.insert(Act("x")),
            "insert_and_wait": lambda: client.insert_and_wait(Act("x"), timeout=MOMENT),
            "insert_flow": lambda: client.insert_flow(_flow()),
            "insert_many": lambda: client.insert_many([(Act("x"), None)] * 20),
            "insert_many_fast": lambda: client.insert_many_fast([Act("x" * 1_000)] * 500),
            "jobs.cancel": lambda: jobs.cancel(1),
            "jobs.count_by_state": jobs.count_by_state,
            "jobs.delete": lambda: jobs.delete(2),
            "jobs.delete_many": lambda: jobs.delete_many(JobFilters(kinds=("act",)), limit=2_000),
            "jobs.get": lambda: jobs.get(1),
            "jobs.list": jobs.list,
            "jobs.retry": lambda: jobs.retry(1),
            "jobs.snooze": lambda: jobs.snooze(1, datetime.now(UTC) + timedelta(hours=1)),
            "jobs.update_output": lambda: jobs.update_output(1, {"a": 1}),
            "jobs.wait": lambda: jobs.wait(1, timeout=MOMENT),
            "jobs.wait_many": lambda: jobs.wait_many([1, 2], timeout=MOMENT),
            "limits.get": lambda: _if_found(limits.get("limited")),
            "limits.halted": limits.halted,
            "limits.hold": lambda: _if_found(limits.hold("limited", [], timedelta(seconds=1))),
            "limits.list": limits.list,
            "limits.partitions": lambda: _if_found(limits.partitions("limited")),
            "limits.release": lambda: _if_found(limits.release("limited", [])),
            "limits.resume": lambda: _if_found(limits.resume("limited", [])),
            "limits.remove": lambda: _if_found(limits.remove("limited")),
            "limits.reset": lambda: _if_found(limits.reset("limited")),
            "limits.set": lambda: limits.set("limited", at_once=2),
            "limits.set_partition": lambda: _if_found(limits.set_partition("limited", [], weight=2)),
            "migrate": lambda: self._other().migrate(),
            "ping": client.ping,
            "queues.get": lambda: queues.get("default"),
            "queues.list": queues.list,
            "queues.pause": lambda: queues.pause("*"),
            "queues.resume": lambda: queues.resume("*"),
            "queues.update": lambda: queues.update("default", metadata={"a": 1}),
            "remove_queue": lambda: self._started(lambda other: other.remove_queue("first")),
            "request_resign": client.request_resign,
            "schedules.get": lambda: _if_found(schedules.get("kept")),
            "schedules.list": schedules.list,
            "schedules.next_instants": lambda: _if_found(schedules.next_instants("kept")),
            "schedules.pause": lambda: _if_found(schedules.pause("kept")),
            "schedules.remove": lambda: _if_found(schedules.remove("kept")),
            "schedules.resume": lambda: _if_found(schedules.resume("kept")),
            "schedules.run_now": lambda: _if_found(schedules.run_now("kept")),
            "schedules.set": lambda: schedules.set(schedule),
            "start": lambda: self._other().start(),
            "stop": lambda: self._started(lambda other: other.stop()),
            "wait_crashed": lambda: self._started(lambda other: _for_a_moment(other.wait_crashed())),
        }

    async def stop_others(self) -> None:
        """Stop the clients of cancelled calls."""
        while self._others:
            await self._others.pop().stop()

    def _other(self) -> Client:
        workers = Workers()

        @workers.add()
        async def act(job: Job[Act]) -> None:
            """Work no job: none is in the queue."""

        config = Config(workers=workers, queues={"first": 1}, leader_election=False, heartbeat_interval=None)
        self._others.append(Client(self._driver_type(self._url, pool_size=2), config))
        return self._others[-1]

    async def _started(self, call: Callable[[Client], Awaitable[object]]) -> None:
        async with self._other() as other:
            await call(other)

    async def _in_transaction(self, call: Callable[..., Awaitable[object]]) -> None:
        [job] = (await self._client.jobs.list(limit=1)).jobs or [None]
        async with self._client.driver.pool.begin() as tx:
            await call(job, {}, tx=tx) if job else None


def _flow() -> Flow:
    flow = Flow("cancelled")
    flow.add(Act("second"), after=flow.add(Act("first")))
    return flow


async def _if_found(call: Awaitable[object]) -> None:
    with contextlib.suppress(ConfigError, NotFound):  # another call may have removed the limit or schedule
        await call


async def _for_a_moment(waiting: Awaitable[object]) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(waiting, 0.001)


def public_calls(client: Client) -> set[str]:
    """Return the names of the coroutine methods of a client and of its parts."""
    parts = {f"{name}.": part for name, part in vars(client).items() if not name.startswith("_")}
    return {
        prefix + name
        for prefix, part in {"": client, **parts}.items()
        for name, _ in inspect.getmembers(type(part), inspect.iscoroutinefunction)
        if not name.startswith("_")
    }


def test_every_public_call_is_in_the_table(postgres_url: str) -> None:
    """A new public call must be cancelled below, too."""
    client = Client(AsyncpgDriver(postgres_url), Config())

    assert Calls(client, AsyncpgDriver, "").by_name().keys() == public_calls(client)


@pytest.mark.slow
@pytest.mark.skipif(
    IS_OLD, reason="asyncpg before 0.32 itself leaves a future of a connect that was cancelled"
)
# psycopg's oldest version itself logs a transaction whose begin was cancelled.
@pytest.mark.parametrize(
    ("driver_type", "engine"), first_of((AsyncpgDriver, ""), (PsycopgDriver, ""), (AsyncpgDriver, "asyncpg"))
)
@pytest.mark.parametrize(
    ("num_calls", "kills"),
    [(60, False), *(pytest.param(1_000, kills, marks=pytest.mark.slow) for kills in (False, True))],
)
async def test_pool_is_whole_after_calls_that_were_cancelled(
    harness: ClientHarness,
    caplog: pytest.LogCaptureFixture,
    num_calls: int,
    kills: bool,
    driver_type: DriverType,
    engine: str,
) -> None:
    """
    All public calls are cancelled at random moments, and nearly all while the server ends sessions.

    Afterwards all connections can be used, and no task, future or connection is left behind.
    """
    url = harness.url_as(APPLICATION)
    pool = _engine(harness.url, engine) if engine else None
    driver = driver_type(EnginePool(pool) if pool else url, pool_size=POOL_SIZE)
    client = Client(driver, Config())
    await driver.open()
    calls = Calls(client, driver_type, url)
    names = sorted(calls.by_name().keys() - (STARTS if kills else set()))
    chosen = random.Random(num_calls)  # noqa: S311 - a test
    tasks = asyncio.all_tasks()
    ends: set[Any] = set()
    texts = ""
    gc.collect()  # logs what tasks of earlier tests have left
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        async with _killer(harness.url) as kill:
            for _ in range(num_calls):
                call = asyncio.ensure_future(calls.by_name()[chosen.choice(names)]())
                await some_turns(call, chosen, TURNS_MAX)
                killed = asyncio.ensure_future(kill()) if kills and chosen.random() < 0.5 else None
                if killed is None or chosen.random() < 0.5:
                    await some_turns(call, chosen, TURNS_MAX)
                    call.cancel()
                [end] = await asyncio.gather(call, return_exceptions=True)
                ends.add(type(end) if isinstance(end, BaseException) else None)
                texts += str(end) if isinstance(end, ConnectionLost) else ""
                if killed is not None:
                    await killed
                await calls.stop_others()
        for _ in range(2 if kills else 1):  # the first calls find the connections that were ended
            pages = asyncio.gather(
                *[client.jobs.list() for _ in range(4 * POOL_SIZE)], return_exceptions=True
            )
            used = {type(page) for page in await asyncio.wait_for(pages, GENEROUS)}
        await driver.close()
        if pool is not None:
            await pool.dispose()
        left = asyncio.all_tasks() - tasks
        pending = (await asyncio.wait(left, timeout=GENEROUS))[1] if left else set()
        gc.collect()
    unexpected = [
        record.getMessage()
        for record in caplog.records
        if not (kills and (record.msg in OUTAGE or record.name.startswith("psycopg")))
    ]

    assert ends <= ({*ANSWERS, ConnectionLost} if kills else ANSWERS)
    assert "cannot switch" not in texts
    assert (used, pending, unexpected) == ({JobPage}, set(), [])


def _engine(url: str, dialect: str) -> AsyncEngine:
    """Return an engine whose sessions a test can find."""
    named = {"application_name": APPLICATION}
    return create_async_engine(
        url.replace("postgresql", f"postgresql+{dialect}", 1),
        connect_args={"server_settings": named},
        max_overflow=0,
        pool_size=POOL_SIZE,
    )


@contextlib.asynccontextmanager
async def _killer(url: str) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """A function that ends all sessions of the calls."""
    connection = await asyncpg.connect(url)
    sql = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE application_name = '{APPLICATION}' AND datname = current_database()"
    )
    yield lambda: connection.fetch(sql)
    await connection.close()
