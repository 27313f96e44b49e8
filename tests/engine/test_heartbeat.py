"""The heartbeat job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from factory import GENEROUS_SECONDS, get_job
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts, InsertResult
from millhand.core.job import JobState
from millhand.core.periodic import IntervalSchedule, PeriodicJob
from millhand.core.worker import Workers
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.heartbeat import heartbeat, with_heartbeat
from millhand.jobs import Heartbeat

LOGGER = "millhand.engine.heartbeat"


@pytest.fixture
async def inserter(schema_driver: AsyncpgDriver) -> AsyncIterator[Client]:
    """A client that works no jobs, on an empty schema."""
    config = Config(schema=schema_driver.schema, skip_unknown_job_check=True)
    async with Client(schema_driver, config) as client:
        yield client


async def _insert(client: Client, periodic_job: PeriodicJob) -> InsertResult:
    """Insert the heartbeat as the leader does."""
    args, opts = periodic_job.construct() or (None, None)
    assert isinstance(args, Heartbeat)
    assert isinstance(opts, InsertOpts)
    return await client.insert(args, opts)


async def test_heartbeat_runs_in_every_client_with_queues(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A client of an application that leads inserts heartbeats, works them, and logs their figures in one line each.

    The application's registry stays as it is, so that other clients can use it.
    """
    workers = Workers()
    config = Config(
        heartbeat_interval=timedelta(milliseconds=100),
        queues={"mail": 1, "pdf": 1},
        schema=schema_driver.schema,
        workers=workers,
    )
    caplog.set_level(logging.INFO, LOGGER)
    client = Client(schema_driver, config)
    leads: dict[int, bool] = {}  # as the client knows when it logs

    def is_kept(record: logging.LogRecord) -> bool:
        leads[vars(record)["job_id"]] = client.is_leader
        return True

    monkeypatch.setattr(logging.getLogger(LOGGER), "filters", [is_kept])

    @workers.add(kind="noop")
    async def noop() -> None: ...

    for _ in range(2):  # a client can be started again
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            async with client, asyncio.timeout(GENEROUS_SECONDS):
                event = await anext(events)

    assert event.job is not None
    assert event.job.queue == "mail"
    assert workers.kinds == ("noop",)
    records = [record for record in caplog.records if record.name == LOGGER]
    (record,) = [record for record in records if vars(record)["job_id"] == event.job.id]
    found = {
        name: vars(record)[name]
        for name in ("client_id", "job_id", "attempt", "leader", "running", "available")
    }
    assert (record.levelname, record.msg) == ("INFO", "worker heartbeat")
    assert found == {
        "client_id": client.id,
        "job_id": event.job.id,
        "attempt": 1,
        "leader": leads[event.job.id],
        "running": 1,
        "available": 0,
    }
    assert 0 < vars(record)["database_ms"] < GENEROUS_SECONDS * 1_000


def test_heartbeat_is_due_every_minute() -> None:
    """
    By default it is due once a minute, and first a minute after a client became leader.

    A client that never leads works heartbeats and inserts none; `None` is for neither.
    """
    leading, following, off = (
        with_heartbeat(Config(queues={"mail": 1, "default": 1}, workers=Workers(), **settings))
        for settings in ({}, {"leader_election": False}, {"heartbeat_interval": None})
    )

    (periodic_job,) = leading.periodic_jobs
    assert periodic_job.schedule == IntervalSchedule(timedelta(seconds=60))
    assert (periodic_job.id, periodic_job.run_on_start) == ("heartbeat", False)
    assert periodic_job.opts is not None
    assert (periodic_job.opts.max_attempts, periodic_job.opts.queue) == (1, "default")
    assert (following.periodic_jobs, following.workers.kinds) == ((), ("heartbeat",))
    assert (off.periodic_jobs, off.workers.kinds) == ((), ())


async def test_heartbeats_do_not_pile_up(inserter: Client) -> None:
    """While one waits, no second is inserted; after it was worked, the next one is."""
    periodic_job = heartbeat(timedelta(days=1_000), "default", run_on_start=False)

    first, second = await _insert(inserter, periodic_job), await _insert(inserter, periodic_job)
    await inserter.jobs.cancel(first.job.id)
    third = await _insert(inserter, periodic_job)

    assert [result.unique_skipped_as_duplicate for result in (first, second, third)] == [False, True, False]
    assert second.job.id == first.job.id


async def test_heartbeat_does_not_wait_for_one_that_died(
    inserter: Client, schema_driver: AsyncpgDriver
) -> None:
    """A heartbeat whose worker was killed holds its key for ten intervals at most."""
    opts = heartbeat(timedelta(minutes=1), "default", run_on_start=False).opts
    assert opts is not None
    assert opts.unique is not None

    died = await inserter.insert(Heartbeat(), opts)
    sql = f"UPDATE \"{schema_driver.schema}\".river_job SET state = 'running', attempt = 1, attempted_at = now()"
    await schema_driver.pool.execute_script(sql)
    ten_beats_later = InsertOpts(
        queue=opts.queue, unique=opts.unique, scheduled_at=died.job.created_at + timedelta(minutes=10)
    )
    next_one = await inserter.insert(Heartbeat(), ten_beats_later)

    assert next_one.unique_skipped_as_duplicate is False
    assert (await get_job(schema_driver.pool, died.job.id)).state is JobState.RUNNING


def test_heartbeat_leaves_its_kind_to_others_without_an_interval() -> None:
    """A client then works no job of the kind `heartbeat`, which may be one of a Go application."""
    config = Config(heartbeat_interval=None, queues={"default": 1}, workers=Workers())

    found = with_heartbeat(config)

    assert (found.workers.kinds, list(found.periodic_jobs)) == ((), [])


def test_heartbeat_replaces_no_worker_of_the_user() -> None:
    """A user's own kind `heartbeat` is an error that names both remedies."""
    workers = Workers()

    @workers.add(kind="heartbeat")
    async def beat() -> None: ...

    with pytest.raises(ConfigError) as refused:
        with_heartbeat(Config(queues={"default": 1}, workers=workers))

    assert str(refused.value) == (
        "kind 'heartbeat' must be registered once, got worker test_heartbeat."
        "test_heartbeat_replaces_no_worker_of_the_user.<locals>.beat and the built-in job; "
        "rename yours, or set heartbeat_interval=None"
    )
