"""Claims about the real process of `millhand worker`."""

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
from worker_harness import GENEROUS_SECONDS, Line, WorkerHarness, at, started_worker

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.embedded import embedded_postgres

SHOP = '''
import asyncio
import logging
import threading
from datetime import timedelta
from pathlib import Path

from millhand.core.clock import SystemClock
from millhand.core.config import Config
from millhand.core.worker_job import Job
from millhand.core.worker import Workers

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
    """Log the start, and wait until a file exists."""
    logger.info("holding")
    while not Path(until).exists():
        await asyncio.sleep(0.01)


@workers.add(kind="stubborn")
def stubborn() -> None:
    """Ignore cancellation in a thread, which Python cannot interrupt."""
    logger.info("holding")
    threading.Event().wait()


@workers.add(kind="quick")
def quick() -> None:
    pass


beating = Config(workers=workers, queues={"default": 10})
config = Config(
    workers=workers,
    queues={"default": 10},
    fetch_poll_interval=timedelta(milliseconds=50),
    heartbeat_interval=None,
)


class BreakingClock(SystemClock):
    """A clock that raises once a file exists, and so crashes the services that use it."""

    def monotonic(self):
        if Path("break").exists():
            raise RuntimeError("the clock broke")
        return super().monotonic()


breaking = Config(workers=workers, queues={"default": 10}, clock=BreakingClock())
'''


@pytest.fixture
def project() -> Iterator[Path]:
    """A project's directory with a module of jobs, readable for the user of a server that root starts."""
    with tempfile.TemporaryDirectory(prefix="millhand-project-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "shop.py").write_text(SHOP)
        yield directory


class Shop:
    """A project with a database, which starts workers, inserts jobs and reads rows."""

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
        """Insert a job that logs `holding` and waits for `release`."""
        return await self.insert("hold", {"until": str(self.released)})

    @property
    def released(self) -> Path:
        """The file that ends the waiting jobs."""
        return self.directory / "released"

    async def row(self, job: JobRow) -> JobRow:
        return await Client(self.driver, Config(schema=self.driver.schema)).jobs.get(job.id)

    async def due_gaps(self, beats: Sequence[Line]) -> list[float]:
        """Return the seconds between the instants at which the runs of heartbeats were due, however late they ran."""
        jobs = Client(self.driver, Config(schema=self.driver.schema)).jobs
        due = [(await jobs.get(beat["job_id"])).scheduled_at for beat in beats]
        return [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(due)]


@pytest.fixture
def shop(project: Path, schema_driver: AsyncpgDriver, postgres_url: str) -> Shop:
    return Shop(project, schema_driver, postgres_url)


def gaps(lines: Sequence[Line]) -> list[float]:
    """Return the seconds between consecutive lines."""
    return [(at(later) - at(earlier)).total_seconds() for earlier, later in itertools.pairwise(lines)]


@pytest.mark.slow
async def test_worker_heartbeat_has_the_set_interval(shop: Shop) -> None:
    """With a user's own configuration, the heartbeat runs at the start and once per interval, and describes the worker."""
    async with shop.worker("shop:beating", MILLHAND_HEARTBEAT_INTERVAL="5s") as worker:
        await worker.line("worker heartbeat", count=3)
        started = await worker.line("worker started")
        code = await worker.stop()

    beats = worker.all_lines("worker heartbeat")[:3]
    assert code == 0
    assert started["kinds"] == "fail,fail_by_default,fail_once,heartbeat,hold,quick,stubborn"
    assert await shop.due_gaps(beats) == [5.0, 5.0]
    # The second one: at the first, the other job of the start may still wait.
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
    assert 0 < beats[1]["database_ms"] < 1_000 * GENEROUS_SECONDS
    assert len({beat["job_id"] for beat in beats}) == 3


@pytest.mark.slow
async def test_worker_heartbeat_runs_every_minute_by_default(shop: Shop) -> None:
    """Without settings, two heartbeats are due 60 s apart."""
    async with shop.worker() as worker:
        await worker.line("worker heartbeat", count=2, seconds=90)
        await worker.stop()

    assert await shop.due_gaps(worker.all_lines("worker heartbeat")[:2]) == [60.0]


async def test_worker_logs_each_failed_attempt_until_it_discards(shop: Shop) -> None:
    """A failing job has `max_attempts` attempts with growing gaps, one line each, and is then discarded."""
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
    # Each gap is at least the logged one; a busy machine makes it longer.
    waits = [(later.at - error.at).total_seconds() for error, later in itertools.pairwise(row.errors)]
    assert [wait > 0.9 * line["seconds"] for wait, line in zip(waits, errored, strict=True)] == [True] * 3
    assert (row.state, row.attempt) == (JobState.DISCARDED, 4)
    assert [error.attempt for error in row.errors] == [1, 2, 3, 4]


@pytest.mark.slow
async def test_worker_backs_off_by_the_default_policy(shop: Shop) -> None:
    """By default a job is retried after 1 s, 16 s, 81 s …, ± 10 %, and never earlier."""
    async with shop.worker("shop:config") as worker:
        job = await shop.insert("fail_by_default", max_attempts=3)
        last = await worker.line("job discarded", job_id=job.id, seconds=60)
        await worker.stop()

    first, second = worker.all_lines("job errored", job_id=job.id)
    assert 0.9 <= first["seconds"] <= 1.1
    assert 14.4 <= second["seconds"] <= 17.6
    # A busy machine makes the gaps longer.
    waits = gaps([first, second, last])
    assert waits[0] >= 0.9
    assert waits[1] >= 14.4


async def test_worker_completes_a_job_that_failed_once(shop: Shop) -> None:
    """A job that fails once and then succeeds is completed and logged with its duration, and keeps its error."""
    job = await shop.insert("fail_once", {"mark": str(shop.directory / "once")})

    async with shop.worker("shop:config", "--until-empty") as worker:
        await worker.line("job errored", job_id=job.id)
        code = await worker.wait()

    row = await shop.row(job)
    (completed,) = worker.all_lines("job completed", level="info")
    assert (completed["job_id"], completed["kind"], completed["attempt"]) == (job.id, "fail_once", 2)
    assert 0 < completed["run_seconds"] < GENEROUS_SECONDS
    assert code == 0
    assert (row.state, row.attempt) == (JobState.COMPLETED, 2)
    assert [(error.attempt, error.error) for error in row.errors] == [(1, "ValueError: not yet")]


@pytest.mark.slow
async def test_worker_until_empty_ignores_unknown_kinds(shop: Shop) -> None:
    """`--until-empty` does not wait for jobs that this worker never fetches."""
    foreign = await shop.insert("of_another_program")

    async with shop.worker("shop:config", "--until-empty") as worker:
        code = await worker.wait()

    assert code == 0
    assert (await shop.row(foreign)).state is JobState.AVAILABLE


@pytest.mark.slow
async def test_worker_warns_about_queues_that_a_flag_replaces(shop: Shop) -> None:
    """`--queue` with a typing error starts, and logs which queue of the configuration is left out and meant."""
    async with shop.worker("shop:config", "--queue", "defualt:5", "--until-empty") as worker:
        code = await worker.wait()

    warnings = [line for line in worker.lines if line["level"] == "warning"]
    assert [line["message"] for line in warnings] == ["queues left out", "queue unknown"]
    assert (code, warnings[0]["left_out"], warnings[1]["remedy"]) == (0, "default", "did you mean 'default'?")


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGHUP))],
)
async def test_idle_worker_stops_gracefully(shop: Shop, number: signal.Signals) -> None:
    """Ctrl-C, `kill` or a closed terminal stops an idle worker at once: the last line is `worker stopped`, the code 0."""
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


@pytest.mark.slow
async def test_worker_does_not_migrate_a_database_of_the_users(shop: Shop) -> None:
    """On a DATABASE_URL without the schema the worker does not start: exit code 1, and the error names the command."""
    async with shop.worker("shop:config", MILLHAND_DATABASE_SCHEMA="nowhere") as worker:
        code = await worker.wait()

    assert (code, worker.lines) == (1, [])
    assert worker.errors == (
        "error: Millhand's tables are missing in schema 'nowhere' (this release needs version 8 of line main); "
        "run: millhand migrate up --schema nowhere\n"
    )


async def test_worker_waits_for_jobs_that_end_in_time(shop: Shop) -> None:
    """After Ctrl-C the worker waits for a running job, which completes, and fetches no new one."""
    async with shop.worker("shop:config", "--log-level", "debug") as worker:
        running = await shop.hold()
        await worker.line("holding")
        worker.signal(signal.SIGINT)
        await worker.line("worker stopping", signal="SIGINT", running=1)
        await worker.line("fetching stopped")  # a fetch that is under way may still find a job
        waiting = await shop.insert("quick")
        shop.released.touch()
        code = await worker.wait()

    assert code == 0
    assert worker.lines[-1]["message"] == "worker stopped"
    assert worker.lines[-1]["completed"] == 1
    assert (await shop.row(running)).state is JobState.COMPLETED
    assert (await shop.row(waiting)).state is JobState.AVAILABLE


@pytest.mark.slow
async def test_worker_interrupts_jobs_after_the_soft_stop_timeout(shop: Shop) -> None:
    """After the soft stop timeout, running jobs are interrupted and available again, and the attempt does not count."""
    async with shop.worker("shop:config", "--soft-stop-timeout", "200ms") as worker:
        running = await shop.hold()
        await worker.line("holding")
        code = await worker.stop()

    row = await shop.row(running)
    assert code == 0
    assert len(worker.all_lines("attempts cancelled", num_jobs=1)) == 1
    assert worker.lines[-1]["message"] == "worker stopped"
    assert (row.state, row.attempt, row.errors) == (JobState.AVAILABLE, 0, ())


@pytest.mark.slow
async def test_worker_stops_hard_on_the_second_signal(shop: Shop) -> None:
    """A second Ctrl-C interrupts running jobs at once, and the worker still stops gracefully."""
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


@pytest.mark.slow
async def test_worker_exits_at_once_on_the_third_signal(shop: Shop) -> None:
    """A third Ctrl-C exits although a function ignores cancellation; its job is left to the rescuer."""
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
async def test_worker_exits_although_a_function_ignores_cancellation(shop: Shop) -> None:
    """A function in a thread is abandoned, and the process exits without it."""
    async with shop.worker("shop:config", "--soft-stop-timeout", "100ms") as worker:
        running = await shop.insert("stubborn")
        await worker.line("holding")
        code = await worker.stop()

    assert code == 0
    assert len(worker.all_lines("attempts abandoned", num_jobs=1)) == 1
    assert worker.lines[-1]["message"] == "worker stopped"
    assert (await shop.row(running)).state is JobState.RUNNING


@pytest.mark.slow
async def test_worker_stops_when_a_service_crashes(shop: Shop) -> None:
    """A crashed service stops the process with its reason and exit code 1."""
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
    """After `kill -9` a new worker works the waiting jobs and rescues the running ones."""
    # First the dead worker's term must end, and the new worker must have waited for two missed heartbeats.
    async with shop.worker("shop:config") as killed:
        running = await shop.hold()
        await killed.line("holding")
        killed.signal(signal.SIGKILL)
        assert await killed.wait() == -signal.SIGKILL
    waiting = await shop.insert("quick")
    shop.released.touch()

    async with shop.worker("shop:config", "--log-level", "debug") as worker:
        await worker.line("job completed", job_id=waiting.id)
        await worker.line("job completed", job_id=running.id, seconds=2 * GENEROUS_SECONDS)
        code = await worker.stop()

    row = await shop.row(running)
    assert code == 0
    assert (row.state, row.attempt, len(row.errors)) == (JobState.COMPLETED, 2, 1)
    assert (await shop.row(waiting)).state is JobState.COMPLETED


@pytest.mark.slow
async def test_worker_continues_after_a_restart_of_its_database(project: Path) -> None:
    """A worker whose database restarts logs the loss, reconnects and continues."""
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
        started_worker(project, "--embedded", environment=often) as first,
        started_worker(project, "--embedded", environment=often) as second,
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
    """Wait for one of several lines."""
    tasks = [asyncio.ensure_future(line) for line in lines]
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    done.pop().result()


def _files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def _stop_server(directory: Path) -> None:
    """Stop a server as an administrator does; the next start waits for it."""
    pid_file = directory / "data" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
