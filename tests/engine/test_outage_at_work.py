"""Outages of clients at work: finished jobs are kept, and the log has two lines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from client_harness import APPLICATION, Act, ClientHarness
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.job import JobId
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator, lines
from millhand.embedded import EmbeddedServer, embedded_postgres
from millhand.testing.probe import Probe
from proxy import BOTH, Direction, Proxy, proxied

pytestmark = pytest.mark.slow

LONG = 60.0
END_LISTENERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND query LIKE 'LISTEN %'"
)
# Log lines that every run has: leadership, and workers that start and stop.
AS_EVER = ("leadership", "worker start", "worker stop")
NEVER = 3600.0
SETTINGS = {"fsync": "off", "max_connections": "40", "superuser_reserved_connections": "0"}


class Holder:
    """A worker whose jobs end when released."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.running: list[JobId] = []
        self.workers = Workers()
        self.workers.add()(self.act)

    async def act(self, job: Job[Act]) -> None:
        self.running.append(job.id)
        await self.go_on.wait()


class Log(logging.Handler):
    """The log lines of outages and of the statements that fail in them, of all clients and drivers of this process."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._news = asyncio.Event()
        self.reasons: list[str] = []
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (
            record.msg == "database still unreachable"
        ):  # a new reason: how many there are depends on what is asked when
            self.reasons.append(vars(record)["error"])
        elif not record.msg.startswith(AS_EVER):
            self.records.append(record)
            self._news.set()

    @property
    def emitted(self) -> list[str]:
        return [record.msg for record in self.records]

    async def wait(self, message: str, num: int = 1) -> None:
        """Return when a message was logged so often."""
        async with asyncio.timeout(LONG):
            while self.emitted.count(message) < num:
                self._news.clear()
                await self._news.wait()


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    handler = Log()
    loggers = [logging.getLogger(name) for name in ("asyncio", "asyncpg", "millhand")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield handler
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LONG):
        while not await is_so():
            pass


async def insert_raw(url: str, queue: str, num_jobs: int) -> None:
    """Insert as another program would, without the proxy."""
    connection = await asyncpg.connect(url)
    sql = "INSERT INTO river_job (kind, args, max_attempts, queue) SELECT 'act', '{\"what\": \"x\"}', 25, $1 "
    await connection.execute(f"{sql} FROM generate_series(1, {num_jobs})", queue)
    await connection.execute("SELECT pg_notify('public.river_insert', $1)", f'{{"queue": "{queue}"}}')
    await connection.close()


async def hold(url: str, holder: Holder, *, queue: str = "default", num_jobs: int = 1) -> None:
    """Insert jobs, and return when they run."""
    wanted = len(holder.running) + num_jobs
    await insert_raw(url, queue, num_jobs)

    async def is_so() -> bool:
        await asyncio.sleep(0)
        return len(holder.running) >= wanted

    await until(is_so)


def spoken(url: str, driver: str) -> str:
    """Return a URL that names its driver."""
    return url.replace("postgresql:", f"postgresql+{driver}:")


async def states(url: str) -> list[tuple[str, int]]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT state::text, attempt FROM river_job ORDER BY id")
    await connection.close()
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("wire", ["asyncpg", "psycopg"])
async def test_outage_has_two_lines_and_finished_jobs_are_kept(
    harness: ClientHarness, log: Log, wire: str
) -> None:
    """Attempts that end during an outage are written after it, and clients reconnect with pauses."""
    holder = Holder()
    async with (
        proxied(harness.url) as proxy,
        harness.client(holder.workers, database=spoken(proxy.url, wire), queues={"default": 20}),
    ):
        await hold(harness.url, holder, num_jobs=20)
        proxy.cut()
        await log.wait("database unreachable")
        holder.go_on.set()
        attempts_a_second = await _attempts_a_second(proxy, 12)
        proxy.restore()
        await log.wait("database back")
        await until(lambda: _is(states(harness.url), [("completed", 1)] * 20))

    begin, end = log.records
    assert (begin.levelname, begin.msg) == ("WARNING", "database unreachable")
    assert "must succeed, got" in begin.error
    assert (end.levelname, end.msg, end.num_kept) == ("INFO", "database back", 20)
    assert 0 < end.seconds < LONG
    assert attempts_a_second < 20


async def test_lost_listener_connects_again_once_the_database_answers(
    harness: ClientHarness, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many failures its pause is long. An answer to a statement ends the pause, so the outage ends soon after."""
    monkeypatch.setattr("millhand.engine.notifier.backoff_seconds", lambda *_, **__: NEVER)
    poll: dict[str, Any] = {"fetch_poll_interval": timedelta(milliseconds=50)}
    async with proxied(harness.url) as proxy:
        driver = AsyncpgDriver(proxy.url, pool_size=2)
        async with harness.client(Holder().workers, database=driver, **poll) as client:
            notifier: Any = client._engine._notifier
            probe = Probe(notifier)

            async def has_failed() -> bool:
                await asyncio.sleep(0)
                return bool(notifier._num_failures)

            proxy.refuse()
            await harness.driver.pool.fetch(END_LISTENERS)
            await until(has_failed)
            proxy.restore()
            await probe.wait("connected")

    assert log.emitted == ["database unreachable", "database back"]


async def test_outcomes_are_written_once_the_database_answers(
    harness: ClientHarness, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many failures the completer's pause is long. An answer to a fetch ends it."""
    monkeypatch.setattr("millhand.engine.completer.backoff_seconds", lambda *_, **__: NEVER)
    holder = Holder()
    poll: dict[str, Any] = {"fetch_poll_interval": timedelta(milliseconds=50)}
    async with proxied(harness.url) as proxy:
        driver = AsyncpgDriver(proxy.url, pool_size=2)
        async with harness.client(holder.workers, database=driver, **poll) as client:
            completer: Any = client._engine.completer
            await hold(harness.url, holder)
            proxy.cut()
            await log.wait("database unreachable")
            holder.go_on.set()

            async def has_failed() -> bool:
                await asyncio.sleep(0)
                return bool(completer._num_failures)

            await until(has_failed)
            proxy.restore()
            await until(lambda: _is(states(harness.url), [("completed", 1)]))


async def _attempts_a_second(proxy: Proxy, num: int) -> float:
    """Return the number of connects a second."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await proxy.wait_connected(proxy.num_connected + num)
    return num / (loop.time() - began)


async def _is(found: Awaitable[object], wanted: object) -> bool:
    return await found == wanted


async def test_ended_sessions_are_one_outage(harness: ClientHarness, log: Log) -> None:
    """All sessions of a worker are ended twice: each time the log has one line at the beginning and one at the end."""
    holder = Holder()
    async with harness.client(holder.workers):
        await hold(harness.url, holder)
        for num in (1, 2):
            await harness.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE application_name = '{APPLICATION}' AND datname = current_database()"
            )
            await log.wait("database back", num)
        holder.go_on.set()
        await until(lambda: _is(states(harness.url), [("completed", 1)]))

    assert log.emitted == ["database unreachable", "database back"] * 2


async def test_network_that_drops_packets_is_an_outage(harness: ClientHarness, log: Log) -> None:
    """Two workers continue without a loss; a stop ends, and logs what it could not write."""
    ways = {"both": BOTH, "answers": [Direction.TO_CLIENT], "stopped": BOTH}
    holders = {name: Holder() for name in ways}
    async with contextlib.AsyncExitStack() as stack:
        proxies = {name: await stack.enter_async_context(proxied(harness.url)) for name in ways}
        clients = {
            name: harness.client(holders[name].workers, database=proxies[name].url, queues={name: 5})
            for name in ways
        }
        for name, client in clients.items():
            await stack.enter_async_context(client)
            await hold(harness.url, holders[name], queue=name)
        for name, directions in ways.items():
            proxies[name].stop_up(directions)
            holders[name].go_on.set()
        await log.wait("database unreachable", 3)
        stopping = asyncio.create_task(clients["stopped"].stop())
        for name in ("both", "answers"):
            proxies[name].restore()
        await asyncio.wait_for(stopping, LONG)
        await log.wait("database back", 2)
        finished = [("completed", 1), ("completed", 1), ("running", 1)]
        await until(lambda: _is(states(harness.url), finished))

    [stranded] = holders["stopped"].running
    [lost] = [record for record in log.records if record.msg == "completions lost"]
    assert (lost.num_jobs, lost.outcomes) == (1, f"completed: {stranded}")
    assert sorted(log.emitted) == sorted(
        ["database unreachable"] * 3 + ["completions lost"] + ["database back"] * 2
    )


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that a server of another user can read."""
    path = Path(tempfile.mkdtemp(prefix="millhand-away-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@contextlib.asynccontextmanager
async def served(directory: Path) -> AsyncIterator[EmbeddedServer]:
    """Run a server; it starts and stops in a thread, because the workers go on meanwhile."""
    server = embedded_postgres(directory, SETTINGS)
    started = await asyncio.to_thread(server.__enter__)
    try:
        yield started
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


async def test_workers_follow_a_failover(directory: Path, log: Log) -> None:
    """Workers with both servers in their URL finish their jobs on the standby; one that only reads is an outage."""
    queries = {
        "primary": ("asyncpg", "?target_session_attrs=primary"),
        "writable": ("psycopg", "?target_session_attrs=read-write"),
        "any": ("asyncpg", ""),
    }
    holders = {name: Holder() for name in queries}
    first, second = directory / "first", directory / "second"
    async with contextlib.AsyncExitStack() as stack:
        async with served(first) as server:
            await _migrate(server.url)
            url = server.url.replace(str(first), str(second))
            ways = [await stack.enter_async_context(proxied(one)) for one in (server.url, url)]
            for name, holder in holders.items():
                driver, query = queries[name]
                config = Config(queues={name: 5}, workers=holder.workers)
                await stack.enter_async_context(Client(spoken(_both(ways), driver) + query, config))
                await hold(server.url, holder, queue=name)
            _crash(first)
            await log.wait("database unreachable", len(holders))
        for holder in holders.values():
            holder.go_on.set()
        await asyncio.to_thread(_clone, first, second)
        async with served(second) as server:
            refused = ways[1].num_connected + 8 * len(holders)
            await ways[1].wait_connected(refused)  # all find the standby, and that it only reads
            assert log.emitted == ["database unreachable"] * len(holders)
            connection = await asyncpg.connect(server.url)
            assert await connection.fetchval("SELECT pg_is_in_recovery()")
            await connection.execute("SELECT pg_promote()")
            await connection.close()
            await log.wait("database back", len(holders))
            await until(lambda: _is(states(server.url), [("completed", 1)] * len(holders)))
            await stack.aclose()

    assert log.emitted == ["database unreachable"] * len(holders) + ["database back"] * len(holders)
    assert {record.num_kept for record in log.records[len(holders) :]} == {1}


def _both(ways: list[Proxy]) -> str:
    """Return the URL of two servers."""
    parts = [urlsplit(one.url) for one in ways]
    hosts = ",".join(f"{one.hostname}:{one.port}" for one in parts)
    return f"postgresql://{parts[0].username}@{hosts}{parts[0].path}"


async def _migrate(url: str) -> None:
    driver = AsyncpgDriver(url)
    await driver.open()
    for line in lines():
        await Migrator(driver, line).up()
    await driver.close()


def _crash(directory: Path) -> None:
    """Stop a server as a power failure does."""
    os.kill(int((directory / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)


def _clone(first: Path, second: Path) -> None:
    """Make a standby from the data of a stopped server."""
    shutil.copytree(first, second, ignore=shutil.ignore_patterns("socket", "lock", "*.pid"))
    (second / "data" / "standby.signal").touch()
    owner = first.stat().st_uid if os.getuid() else (first / "data").stat().st_uid
    if not os.getuid():
        for path in (second / "data", *(second / "data").rglob("*")):
            os.chown(path, owner, (first / "data").stat().st_gid)


async def test_server_without_a_free_connection_is_an_outage(directory: Path, log: Log) -> None:
    """A worker that lost its connections waits, and continues when connections are free again."""
    holder = Holder()
    with embedded_postgres(directory / "server", SETTINGS) as server:
        await _migrate(server.url)
        url = f"{server.url}&application_name={APPLICATION}"
        async with Client(url, Config(queues={"default": 5}, workers=holder.workers)):
            await hold(server.url, holder)
            hogs = await _take_all(server.url)
            await log.wait("database unreachable")
            holder.go_on.set()
            first, *others = hogs
            await until(lambda: _is(_num_of_worker(first), 0))
            assert log.emitted == ["database unreachable"]
            assert [reason.partition(", got ")[2] for reason in log.reasons] == [
                "sorry, too many clients already"
            ]
            for hog in others:
                await hog.close()
            await log.wait("database back")
            await first.close()
            await until(lambda: _is(states(server.url), [("completed", 1)]))

    assert log.emitted == ["database unreachable", "database back"]
    assert log.records[1].num_kept == 1


async def _num_of_worker(connection: asyncpg.Connection) -> int:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
    return int(await connection.fetchval(sql, APPLICATION))


async def _take_all(url: str) -> list[asyncpg.Connection]:
    """Take all connections of a server, and return when the worker can have none."""
    sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
    taken = [await asyncpg.connect(url)]
    async with asyncio.timeout(LONG):
        while len(taken) < int(SETTINGS["max_connections"]):
            try:
                taken.append(await asyncpg.connect(url))
            except asyncpg.TooManyConnectionsError:
                await taken[0].fetch(sql, APPLICATION)
    return taken
