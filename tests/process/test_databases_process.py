"""Claims about a process with a client for each of several databases, on two databases of the run's server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from client_harness import GENEROUS
from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.clock import SystemClock
from millhand.core.config import Config
from millhand.core.errors import MillhandError
from millhand.core.log.context_fields import database_fields
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.detect import driver_at
from millhand.process.databases_process import DatabasesProcess
from millhand.process.observer import ObserveSettings
from millhand.process.worker_observer import WorkerObserver
from millhand.process.worker_process import Start
from proxy import proxied
from user_programs import fresh_database


@dataclass(frozen=True)
class Nothing:
    """The args of a job without args."""


class Log(logging.Handler):
    """The log lines of Millhand, and a wait for one."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._news = asyncio.Event()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self._news.set()

    def fields(self, message: str) -> list[dict[str, Any]]:
        """Return the fields of the lines with a message."""
        return [vars(record) for record in self.records if record.msg == message]

    async def wait(self, message: str, *, count: int = 1) -> None:
        """Return when a message was logged `count` times."""
        while len(self.fields(message)) < count:
            self._news.clear()
            await self._news.wait()


class BreakingClock(SystemClock):
    """A clock that raises in the tasks of its client once it is broken, and so crashes the services that use it."""

    def __init__(self) -> None:
        self.is_broken = False

    def monotonic(self) -> float:
        if self.is_broken and database_fields():
            raise RuntimeError("the clock broke")
        return super().monotonic()


OBSERVED = ObserveSettings(address=None, file=None, live_seconds=120.0, manager=None)


@pytest.fixture
async def urls(postgres_server_url: str) -> AsyncIterator[dict[str, str]]:
    """The URLs of two migrated databases."""
    async with fresh_database(postgres_server_url) as eu, fresh_database(postgres_server_url) as us:
        yield {"eu": eu, "us": us}


@pytest.fixture
def log() -> Iterator[Log]:
    """What Millhand logs during the test."""
    handler, logger = Log(), logging.getLogger("millhand")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def start_of(url: str, config: Config) -> Start:
    """Return a start that closes its driver after the client, as that of a worker does."""

    async def start(stack: AsyncExitStack) -> Client:
        driver = driver_at(url, pool_size=3)
        await driver.open()
        stack.push_async_callback(driver.close)
        client = Client(driver, config)
        await client.start()
        return client

    return start


def config(name: str, workers: Workers, **more: Any) -> Config:
    return Config(database=name, heartbeat_interval=None, queues={"default": 5}, workers=workers, **more)


def starts(urls: Mapping[str, str], workers: Workers) -> dict[str, Start]:
    return {name: start_of(url, config(name, workers)) for name, url in urls.items()}


async def insert(url: str, kind: str) -> None:
    async with Client(url, Config(skip_unknown_job_check=True), pool_size=1) as client:
        await client.insert(RawArgs(kind, "{}"))


def no_start(message: str) -> Start:
    async def start(_: AsyncExitStack) -> Client:
        raise MillhandError(message)

    return start


@contextlib.asynccontextmanager
async def waiting(
    urls: Mapping[str, str], log: Log, url: str
) -> AsyncIterator[tuple[asyncio.Task[bool], asyncio.Event]]:
    """Run a process with `until_empty` in whose database at `url` a job waits for the event; yield both."""
    workers = Workers()
    begun, released = asyncio.Event(), asyncio.Event()

    @workers.add(kind="wait")
    async def wait() -> None:
        begun.set()
        await released.wait()

    await insert(url, "wait")
    process = DatabasesProcess(starts(urls, workers), until_empty=True)
    async with asyncio.timeout(GENEROUS), asyncio.TaskGroup() as group:
        run = group.create_task(process.run())
        await log.wait("worker started", count=2)
        await begun.wait()
        yield run, released


@pytest.mark.slow
async def test_process_ends_when_no_database_has_jobs(urls: dict[str, str]) -> None:
    """A job that inserts into the other database does not outlive an emptied process, and knows its own database."""
    worked: list[tuple[str, str]] = []
    workers = Workers()

    @workers.add(kind="pass_on")
    async def pass_on(job: Job[Nothing]) -> None:
        worked.append((job.kind, job.database))
        await insert(urls["us"], "take")

    @workers.add(kind="take")
    def take(job: Job[Nothing]) -> None:
        worked.append((job.kind, job.database))

    await insert(urls["eu"], "pass_on")
    async with asyncio.timeout(GENEROUS):
        assert await DatabasesProcess(starts(urls, workers), until_empty=True).run()

    assert worked == [("pass_on", "eu"), ("take", "us")]


@pytest.mark.slow
@pytest.mark.parametrize("until_empty", [False, True])
async def test_crash_of_one_client_stops_all(urls: dict[str, str], log: Log, *, until_empty: bool) -> None:
    """The other clients stop gracefully, their running jobs included, and the process has failed."""
    workers, clock = Workers(), BreakingClock()
    begun, released = asyncio.Event(), asyncio.Event()

    @workers.add(kind="wait")
    async def wait() -> None:
        begun.set()
        await released.wait()

    await insert(urls["us"], "wait")
    eu = start_of(urls["eu"], config("eu", workers, clock=clock, fetch_poll_interval=timedelta(seconds=0.1)))
    process = DatabasesProcess({"eu": eu, "us": starts(urls, workers)["us"]}, until_empty=until_empty)
    async with asyncio.timeout(GENEROUS), asyncio.TaskGroup() as group:
        run = group.create_task(process.run())
        await log.wait("worker started", count=2)
        await begun.wait()
        clock.is_broken = True
        await log.wait("worker crashed")
        released.set()
        assert not await run

    assert [one["error"] for one in log.fields("worker crashed")] == ["the clock broke"]
    assert sorted(one["completed"] for one in log.fields("worker stopped")) == [0, 1]


@pytest.mark.slow
async def test_failed_start_is_logged_once_and_tried_again(
    urls: dict[str, str], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second failure for the same reason is silent, one for another reason is not, and a success ends the tries."""
    monkeypatch.setattr("millhand.process.databases_process.PAUSES_SECONDS", (0.01,))
    workers = Workers()
    began = asyncio.Event()

    @workers.add(kind="note")
    async def note() -> None:
        began.set()

    reasons = ["first", "first", "second"]
    real = starts(urls, workers)

    async def late(stack: AsyncExitStack) -> Client:
        if reasons:
            raise MillhandError(reasons.pop(0))
        return await real["us"](stack)

    await insert(urls["us"], "note")
    observer = WorkerObserver(OBSERVED, ["eu", "us"])
    process = DatabasesProcess({"eu": real["eu"], "us": late}, until_empty=False, observer=observer)
    async with asyncio.timeout(GENEROUS), asyncio.TaskGroup() as group:
        run = group.create_task(process.run())
        await began.wait()
        process.on_signal("SIGTERM", 1)
        assert await run

    failures = [one["error"] for one in log.fields("database not started")]
    assert failures == ["first", "second"]


@pytest.mark.slow
async def test_second_signal_cancels_the_attempts_of_all(urls: dict[str, str]) -> None:
    """The first signal waits for running jobs in each database, and the second one interrupts them."""
    workers = Workers()
    begun = {name: asyncio.Event() for name in urls}

    @workers.add(kind="wait")
    async def wait(job: Job[Nothing]) -> None:
        begun[job.database].set()
        await asyncio.Event().wait()

    for url in urls.values():
        await insert(url, "wait")
    process = DatabasesProcess(starts(urls, workers), until_empty=False)
    async with asyncio.timeout(GENEROUS), asyncio.TaskGroup() as group:
        run = group.create_task(process.run())
        for event in begun.values():
            await event.wait()
        process.on_signal("SIGTERM", 1)
        process.on_signal("SIGTERM", 2)
        assert await run


@pytest.mark.slow
async def test_signal_ends_an_emptied_process_with_jobs_left(urls: dict[str, str], log: Log) -> None:
    """With `until_empty`, a stop asks no queue of a client that is closing, and lets running jobs complete."""
    workers = Workers()
    begun, released = asyncio.Event(), asyncio.Event()

    @workers.add(kind="wait")
    async def wait() -> None:
        begun.set()
        await released.wait()

    await insert(urls["us"], "wait")
    process = DatabasesProcess(starts(urls, workers), until_empty=True)
    async with asyncio.timeout(GENEROUS), asyncio.TaskGroup() as group:
        run = group.create_task(process.run())
        await log.wait("worker started", count=2)
        await begun.wait()
        process.on_signal("SIGTERM", 1)
        await log.wait("worker stopped")
        released.set()
        assert await run

    assert sorted(one["completed"] for one in log.fields("worker stopped")) == [0, 1]
    assert [one["signal"] for one in log.fields("worker stopping")] == ["SIGTERM", "SIGTERM"]
    assert not log.fields("emptiness unknown")


@pytest.mark.slow
async def test_signal_ends_an_emptied_process_while_a_client_connects(urls: dict[str, str], log: Log) -> None:
    """With `until_empty`, a stop ends the start of one database, and the other one stops gracefully."""
    workers = Workers()

    @workers.add(kind="note")
    async def note() -> None: ...

    async def endless(_: AsyncExitStack) -> Client:
        await asyncio.Event().wait()
        raise AssertionError

    process = DatabasesProcess({"eu": starts(urls, workers)["eu"], "us": endless}, until_empty=True)
    async with asyncio.timeout(GENEROUS), asyncio.TaskGroup() as group:
        run = group.create_task(process.run())
        await log.wait("worker started")
        process.on_signal("SIGTERM", 1)
        assert await run

    assert len(log.fields("worker stopped")) == 2


async def test_signal_before_the_start_ends_an_emptied_process() -> None:
    """A stop before `run` starts no client, and the process ends."""
    process = DatabasesProcess({"eu": no_start("eu is away")}, until_empty=True)
    process.on_signal("SIGTERM", 1)

    async with asyncio.timeout(GENEROUS):
        assert await process.run()


@pytest.mark.slow
async def test_emptied_process_leaves_out_a_database_that_went_away(
    urls: dict[str, str], log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `until_empty`, a database that stops answering keeps the process for a limited time; the process then fails."""
    monkeypatch.setattr("millhand.process.databases_process.AWAY_SECONDS", 1.0)
    async with (
        proxied(urls["us"]) as way,
        waiting(urls | {"us": way.url}, log, urls["eu"]) as (run, released),
    ):
        way.cut()
        await log.wait("database unreachable")
        released.set()
        assert not await run

    [away], [*stopping] = log.fields("database unreachable"), log.fields("worker stopping")
    assert min(one["created"] for one in stopping) - away["created"] >= 1.0
    assert sorted(one["completed"] for one in log.fields("worker stopped")) == [0, 1]


@pytest.mark.slow
async def test_emptied_process_works_a_database_that_is_back(urls: dict[str, str], log: Log) -> None:
    """With `until_empty`, a database that answers again is emptied, and the process has not failed."""
    async with (
        proxied(urls["us"]) as way,
        waiting(urls | {"us": way.url}, log, urls["eu"]) as (run, released),
    ):
        way.cut()
        await log.wait("database unreachable")
        released.set()
        await insert(urls["us"], "wait")
        way.restore()
        assert await run

    assert [one["completed"] for one in log.fields("worker stopped")] == [1, 1]


async def test_process_fails_if_no_client_starts() -> None:
    """The error of the first database ends the process, whatever the order of the failures."""
    process = DatabasesProcess(
        {"eu": no_start("eu is away"), "us": no_start("us is away")}, until_empty=False
    )

    with pytest.raises(MillhandError, match=r"^eu is away$"):
        await process.run()


@pytest.mark.slow
async def test_signal_ends_a_process_that_waits_to_start_again(urls: dict[str, str], log: Log) -> None:
    """A stop does not wait for the pause between two starts, and the database has its last line too."""
    workers = Workers()

    @workers.add(kind="note")
    async def note() -> None: ...

    process = DatabasesProcess(
        {"eu": starts(urls, workers)["eu"], "us": no_start("us is away")}, until_empty=False
    )
    async with asyncio.timeout(GENEROUS), asyncio.TaskGroup() as group:
        run = group.create_task(process.run())
        await log.wait("worker started")
        await log.wait("database not started")
        process.on_signal("SIGTERM", 1)
        assert await run

    assert len(log.fields("worker stopped")) == 2


@pytest.mark.slow
async def test_signal_does_not_interrupt_the_end_of_a_failed_start(urls: dict[str, str], log: Log) -> None:
    """A stop lets a start that failed close what it opened, and the other database stops gracefully."""
    workers = Workers()
    is_closing, may_close, is_closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @workers.add(kind="note")
    async def note() -> None: ...

    async def close() -> None:
        is_closing.set()
        await may_close.wait()
        is_closed.set()

    async def fail(stack: AsyncExitStack) -> Client:
        stack.push_async_callback(close)
        raise MillhandError("us is away")

    process = DatabasesProcess({"eu": starts(urls, workers)["eu"], "us": fail}, until_empty=False)
    async with asyncio.timeout(GENEROUS), asyncio.TaskGroup() as group:
        run = group.create_task(process.run())
        await log.wait("worker started")
        await is_closing.wait()
        process.on_signal("SIGTERM", 1)
        may_close.set()
        assert await run

    assert is_closed.is_set()
    assert len(log.fields("worker stopped")) == 2
