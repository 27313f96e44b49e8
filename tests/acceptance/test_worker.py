"""Proofs on the real process: what a person used to check by hand, with `millhand worker`, a shell and a stop watch."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from worker_harness import Line, WorkerHarness, at, started_worker

from millhand.args.codec import RawArgs
from millhand.client import Client
from millhand.config import Config
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.embedded import embedded_postgres
from millhand.insert_opts import InsertOpts
from millhand.job import JobRow, JobState

SHOP = '''
import asyncio
import logging
import threading
from datetime import timedelta
from pathlib import Path

from millhand.clock import SystemClock
from millhand.config import Config
from millhand.job import Job
from millhand.worker import Workers

logger = logging.getLogger(__name__)
workers = Workers()


class Growing:
    """100 ms, 200 ms, 400 ms …"""

    def next_retry_at(self, job, *, now):
        return now + timedelta(milliseconds=50) * 2**job.attempt


@workers.add(kind="fail", retry=Growing())
async def fail() -> None:
    raise ValueError("card declined")


@workers.add(kind="fail_by_default")
async def fail_by_default() -> None:
    raise ValueError("card declined")


@workers.add(kind="fail_once", retry=Growing())
async def fail_once(mark: str) -> None:
    if not Path(mark).exists():
        Path(mark).touch()
        raise ValueError("not yet")


@workers.add(kind="hold")
async def hold(until: str) -> None:
    """Say that it began, and hold on until a file is there."""
    logger.info("holding")
    while not Path(until).exists():
        await asyncio.sleep(0.01)


@workers.add(kind="stubborn")
def stubborn() -> None:
    """Pay no heed to anything, in a thread, which nobody can interrupt."""
    logger.info("holding")
    threading.Event().wait()


@workers.add(kind="quick")
def quick() -> None:
    pass


config = Config(workers=workers, queues={"default": 10}, fetch_poll_interval=timedelta(milliseconds=50))


class BreakingClock(SystemClock):
    """Breaks when a file is there, and with it whatever goes by it."""

    def monotonic(self):
        if Path("break").exists():
            raise RuntimeError("the clock broke")
        return super().monotonic()


breaking = Config(workers=workers, queues={"default": 10}, clock=BreakingClock())
'''


@pytest.fixture
def project() -> Iterator[Path]:
    """A project's directory, open to the user as whom a root's PostgreSQL runs, with a module of jobs."""
    with tempfile.TemporaryDirectory(prefix="millhand-project-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "shop.py").write_text(SHOP)
        yield directory


class Shop:
    """A project with a database: starts workers, inserts jobs as an application does, and looks at rows."""

    def __init__(self, directory: Path, driver: AsyncpgDriver, url: str) -> None:
        self.directory = directory
        self.driver = driver
        self._environment = {"DATABASE_URL": url, "MILLHAND_DATABASE_SCHEMA": driver.schema}

    def worker(self, *arguments: str, **environment: str) -> AbstractAsyncContextManager[WorkerHarness]:
        return started_worker(self.directory, *arguments, environment=self._environment | environment)

    async def insert(self, kind: str, args: dict[str, Any] | None = None, **opts: Any) -> JobRow:
        config = Config(schema=self.driver.schema, skip_unknown_job_check=True)
        result = await Client(self.driver, config).insert(
            RawArgs(kind, json.dumps(args or {})), InsertOpts(**opts)
        )
        return result.job

    async def hold(self) -> JobRow:
        """Insert a job that logs `holding` and ends when it is let go."""
        return await self.insert("hold", {"until": str(self.released)})

    @property
    def released(self) -> Path:
        """The file that lets jobs go that hold."""
        return self.directory / "released"

    async def row(self, job: JobRow) -> JobRow:
        return await Client(self.driver, Config(schema=self.driver.schema)).jobs.get(job.id)


@pytest.fixture
def shop(project: Path, schema_driver: AsyncpgDriver, postgres_url: str) -> Shop:
    return Shop(project, schema_driver, postgres_url)


def gaps(lines: Sequence[Line]) -> list[float]:
    """Return the seconds between one line and the next."""
    return [(at(later) - at(earlier)).total_seconds() for earlier, later in itertools.pairwise(lines)]


async def test_worker_beats_every_second_when_told_to(shop: Shop) -> None:
    """The heartbeat goes the whole way at start and then once an interval, and tells how the worker is."""
    async with shop.worker(MILLHAND_HEARTBEAT_INTERVAL="1s") as worker:
        await worker.line("worker heartbeat", count=3)
        started = await worker.line("worker started")
        code = await worker.stop()

    beats = worker.all_lines("worker heartbeat")[:3]
    assert code == 0
    assert started["kinds"] == "heartbeat,orphan_cleanup"
    assert [0.5 < gap < 1.5 for gap in gaps(beats)] == [True, True]
    # The second: at the first, the other job of the start may still be waiting.
    assert {
        name: beats[1][name] for name in ("client_id", "attempt", "leader", "running", "available", "level")
    } == {
        "client_id": started["client_id"],
        "attempt": 1,
        "leader": True,
        "running": 1,
        "available": 0,
        "level": "info",
    }
    assert 0 < beats[1]["database_ms"] < 1_000
    assert len({beat["job_id"] for beat in beats}) == 3


@pytest.mark.slow
async def test_worker_beats_every_minute_by_default(shop: Shop) -> None:
    """Without any setting, two heartbeats are 60 s ± 2 s apart."""
    async with shop.worker() as worker:
        await worker.line("worker heartbeat", count=2, seconds=90)
        await worker.stop()

    (gap,) = gaps(worker.all_lines("worker heartbeat")[:2])
    assert 58 <= gap <= 62


async def test_worker_logs_each_failed_attempt_until_it_discards(shop: Shop) -> None:
    """A job that always fails is attempted `max_attempts` times, with gaps that grow, each a line; then discarded."""
    async with shop.worker("shop:config") as worker:
        job = await shop.insert("fail", max_attempts=4)
        last = await worker.line("job discarded", job_id=job.id)
        await worker.stop()

    errored = worker.all_lines("job errored", job_id=job.id)
    assert [(line["attempt"], line["max_attempts"], line["level"]) for line in errored] == [
        (1, 4, "warning"),
        (2, 4, "warning"),
        (3, 4, "warning"),
    ]
    assert (last["attempt"], last["level"], last["error"], last["error_type"]) == (
        4,
        "error",
        "card declined",
        "ValueError",
    )
    assert [round(line["seconds"], 1) for line in errored] == [0.1, 0.2, 0.4]
    row = await shop.row(job)
    # From attempt to attempt it was at least as long as had been said; what it was longer is the machine's.
    waits = [(later.at - error.at).total_seconds() for error, later in itertools.pairwise(row.errors)]
    assert [wait > 0.9 * line["seconds"] for wait, line in zip(waits, errored, strict=True)] == [True] * 3
    assert (row.state, row.attempt) == (JobState.DISCARDED, 4)
    assert [error.attempt for error in row.errors] == [1, 2, 3, 4]


@pytest.mark.slow
async def test_worker_backs_off_by_the_default_policy(shop: Shop) -> None:
    """Without a policy of its own a job is tried again after 1 s, 16 s, 81 s …, ± 10 %, and no sooner."""
    async with shop.worker("shop:config") as worker:
        job = await shop.insert("fail_by_default", max_attempts=3)
        last = await worker.line("job discarded", job_id=job.id, seconds=60)
        await worker.stop()

    first, second = worker.all_lines("job errored", job_id=job.id)
    assert 0.9 <= first["seconds"] <= 1.1
    assert 14.4 <= second["seconds"] <= 17.6
    # What it was longer is the machine's.
    waits = gaps([first, second, last])
    assert waits[0] >= 0.9
    assert waits[1] >= 14.4


async def test_worker_completes_a_job_that_failed_once(shop: Shop) -> None:
    """A job that fails and then succeeds ends completed, and keeps the one error."""
    job = await shop.insert("fail_once", {"mark": str(shop.directory / "once")})

    async with shop.worker("shop:config", "--until-empty") as worker:
        await worker.line("job errored", job_id=job.id)
        code = await worker.wait()

    row = await shop.row(job)
    assert code == 0
    assert (row.state, row.attempt) == (JobState.COMPLETED, 2)
    assert [(error.attempt, error.error) for error in row.errors] == [(1, "ValueError: not yet")]


@pytest.mark.slow
async def test_worker_is_done_although_jobs_of_foreign_kinds_wait(shop: Shop) -> None:
    """`--until-empty` does not wait for jobs that this worker would never fetch."""
    foreign = await shop.insert("of_another_program")

    async with shop.worker("shop:config", "--until-empty") as worker:
        code = await worker.wait()

    assert code == 0
    assert (await shop.row(foreign)).state is JobState.AVAILABLE


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
async def test_worker_stops_in_order_when_idle(shop: Shop, number: signal.Signals) -> None:
    """Ctrl-C, `kill` or a closed terminal ends an idle worker at once: `worker stopped` comes last, the code is 0."""
    async with shop.worker("shop:config") as worker:
        await worker.line("worker started")
        worker.signal(number)
        code = await worker.wait()

    (stopping,), stopped = worker.all_lines("worker stopping"), worker.lines[-1]
    assert code == 0
    assert (stopping["signal"], stopping["running"]) == (number.name, 0)
    assert stopped["message"] == "worker stopped"
    assert stopped["seconds"] < 5
    assert worker.errors == ""


async def test_worker_does_not_migrate_a_database_of_the_users(shop: Shop) -> None:
    """On a DATABASE_URL without the schema the worker does not start: exit code 1, and what to run."""
    async with shop.worker("shop:config", MILLHAND_DATABASE_SCHEMA="nowhere") as worker:
        code = await worker.wait()

    assert (code, worker.lines) == (1, [])
    assert worker.errors == (
        "error: schema 'nowhere' has no migrations of line 'main', this release needs 8; "
        "run: millhand migrate up --schema nowhere\n"
    )


async def test_worker_waits_for_jobs_that_end_in_time(shop: Shop) -> None:
    """After Ctrl-C a running job is waited for; it ends completed, and nothing new is fetched."""
    async with shop.worker("shop:config") as worker:
        running = await shop.hold()
        await worker.line("holding")
        worker.signal(signal.SIGINT)
        await worker.line("worker stopping", signal="SIGINT", running=1)
        waiting = await shop.insert("quick")
        shop.released.touch()
        code = await worker.wait()

    assert code == 0
    assert worker.lines[-1]["message"] == "worker stopped"
    assert worker.lines[-1]["completed"] == 1
    assert (await shop.row(running)).state is JobState.COMPLETED
    assert (await shop.row(waiting)).state is JobState.AVAILABLE


async def test_worker_gives_back_jobs_that_do_not_end_in_time(shop: Shop) -> None:
    """When the soft stop times out, running jobs are interrupted and given back, and the attempt does not count."""
    async with shop.worker("shop:config", "--soft-stop-timeout", "200ms") as worker:
        running = await shop.hold()
        await worker.line("holding")
        code = await worker.stop()

    row = await shop.row(running)
    assert code == 0
    assert len(worker.all_lines("attempts cancelled", num_jobs=1)) == 1
    assert worker.lines[-1]["message"] == "worker stopped"
    assert (row.state, row.attempt, row.errors) == (JobState.AVAILABLE, 0, ())


async def test_worker_stops_hard_on_the_second_signal(shop: Shop) -> None:
    """A second Ctrl-C does not wait for the timeout: running jobs are interrupted now, and it still ends in order."""
    async with shop.worker("shop:config", "--soft-stop-timeout", "none") as worker:
        running = await shop.hold()
        await worker.line("holding")
        worker.signal(signal.SIGINT)
        await worker.line("worker stopping")
        worker.signal(signal.SIGINT)
        code = await worker.wait()

    row = await shop.row(running)
    assert code == 0
    assert worker.lines[-1]["message"] == "worker stopped"
    assert (row.state, row.attempt) == (JobState.AVAILABLE, 0)


async def test_worker_ends_at_once_on_the_third_signal(shop: Shop) -> None:
    """A third Ctrl-C ends the process although a function pays no heed; its job is left to the rescuer."""
    async with shop.worker("shop:config") as worker:
        running = await shop.insert("stubborn")
        await worker.line("holding")
        worker.signal(signal.SIGINT)
        await worker.line("worker stopping")
        worker.signal(signal.SIGINT)
        await worker.line("attempts cancelled")
        worker.signal(signal.SIGINT)
        code = await worker.wait()

    assert code == 128 + signal.SIGINT
    assert (await shop.row(running)).state is JobState.RUNNING


@pytest.mark.slow
async def test_worker_ends_although_a_function_pays_no_heed(shop: Shop) -> None:
    """A function that nobody can interrupt is abandoned in the end: the process ends in order without it."""
    async with shop.worker("shop:config", "--soft-stop-timeout", "100ms") as worker:
        running = await shop.insert("stubborn")
        await worker.line("holding")
        code = await worker.stop()

    assert code == 0
    assert len(worker.all_lines("attempts abandoned", num_jobs=1)) == 1
    assert worker.lines[-1]["message"] == "worker stopped"
    assert (await shop.row(running)).state is JobState.RUNNING


@pytest.mark.slow
async def test_worker_ends_when_a_part_of_it_crashes(shop: Shop) -> None:
    """A part that crashes ends the process, with its reason and exit code 1: never a worker that is half alive."""
    async with shop.worker("shop:breaking") as worker:
        await worker.line("worker started")
        (shop.directory / "break").touch()
        crashed = await worker.line("worker crashed")
        code = await worker.wait()

    assert code == 1
    assert (crashed["level"], crashed["error"], crashed["error_type"]) == (
        "error",
        "the clock broke",
        "RuntimeError",
    )
    assert worker.lines[-1]["message"] == "worker stopped"


@pytest.mark.slow
async def test_worker_that_was_killed_loses_no_job(shop: Shop) -> None:
    """After `kill -9` a new worker works what waits and rescues what ran: no job is lost, none runs for ever."""
    # The dead worker's term must end first, and the new one must have listened for as long as a living one is silent.
    async with shop.worker("shop:config") as killed:
        running = await shop.hold()
        await killed.line("holding")
        killed.signal(signal.SIGKILL)
        assert await killed.wait() == -signal.SIGKILL
    waiting = await shop.insert("quick")
    shop.released.touch()

    async with shop.worker("shop:config", "--log-level", "debug") as worker:
        await worker.line("job completed", job_id=waiting.id)
        await worker.line("job completed", job_id=running.id)
        code = await worker.stop()

    row = await shop.row(running)
    assert code == 0
    assert (row.state, row.attempt, len(row.errors)) == (JobState.COMPLETED, 2, 1)
    assert (await shop.row(waiting)).state is JobState.COMPLETED


async def test_worker_goes_on_when_its_database_was_restarted(project: Path) -> None:
    """A worker whose database goes away for a while says so, connects again and works on."""
    directory = project / "server"
    with embedded_postgres(directory, {"fsync": "off"}) as server:
        environment = {"DATABASE_URL": server.url, "MILLHAND_WORKER_FETCH_POLL_INTERVAL": "200ms"}
        async with started_worker(project, "shop:config", "--migrate", environment=environment) as worker:
            await worker.line("worker started")
            _stop_server(directory)
            await worker.line("database unreachable")
            with embedded_postgres(directory, {"fsync": "off"}):
                await worker.line("database back")
                async with Client(server.url, Config(skip_unknown_job_check=True)) as application:
                    job = (await application.insert(RawArgs("fail", "{}"), InsertOpts(max_attempts=1))).job
                    await worker.line("job discarded", job_id=job.id)
                code = await worker.stop()

    assert code == 0
    assert worker.lines[-1]["message"] == "worker stopped"


@pytest.mark.slow
async def test_worker_starts_with_nothing_but_a_directory(project: Path) -> None:
    """
    Without a database a worker starts one, migrates it, beats and cleans up.

    A second worker in the same directory joins it and may outlive the first; the last takes it down.
    """
    often = {"MILLHAND_HEARTBEAT_INTERVAL": "1s"}
    async with (
        started_worker(project, environment=often) as first,
        started_worker(project, environment=often) as second,
    ):
        await first.line("worker started")
        await second.line("worker started")
        await _one_of(*(one.line("orphan cleanup completed") for one in (first, second)))
        code = await first.stop()
        beat = await second.line("worker heartbeat", leader=True)
        codes = [code, await second.stop()]

    lines = [*first.lines, *second.lines]
    steps = [line for line in lines if line["message"] == "schema migrated" and line["line"] == "main"]
    assert codes == [0, 0]
    assert {first.lines[0]["message"], second.lines[0]["message"]} == {"postgres started", "postgres joined"}
    assert first.lines[0]["data"] == ".millhand/postgres"
    assert (min(step["from"] for step in steps), max(step["to"] for step in steps)) == (0, 8)
    assert beat["client_id"] == second.all_lines("worker started")[0]["client_id"]
    assert _files(project / ".millhand") >= {".gitignore", "objects", "postgres"}
    assert "postmaster.pid" not in _files(project / ".millhand" / "postgres" / "data")
    assert first.errors == second.errors == ""


async def _one_of(*lines: Coroutine[None, None, Line]) -> None:
    """Wait until one of several lines is there."""
    tasks = [asyncio.ensure_future(line) for line in lines]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    done.pop().result()


def _files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def _stop_server(directory: Path) -> None:
    """Have a server stop as an administrator does; who starts it next waits for its end."""
    pid_file = directory / "data" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
