"""The heartbeat job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from factory import GENEROUS_SECONDS, get_job
from millhand.client import Client
from millhand.config import Config
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.errors import ConfigError
from millhand.event import EventKind
from millhand.insert_opts import InsertOpts, InsertResult
from millhand.job import JobState
from millhand.jobs import Heartbeat, add_heartbeat
from millhand.periodic import PeriodicJob
from millhand.worker import Workers

LOGGER = "millhand.jobs.heartbeat"


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


async def test_heartbeat_is_inserted_worked_and_logged(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """A leader with the heartbeat inserts one, works it, and logs its figures in one line."""
    workers = Workers()
    heartbeat = add_heartbeat(workers)
    config = Config(
        periodic_jobs=[heartbeat], queues={"default": 1}, schema=schema_driver.schema, workers=workers
    )
    caplog.set_level(logging.INFO, LOGGER)
    client = Client(schema_driver, config)

    with client.subscribe(EventKind.JOB_COMPLETED) as events:
        async with client, asyncio.timeout(GENEROUS_SECONDS):
            event = await anext(events)
            is_leader = client.is_leader

    assert event.job is not None
    (record,) = [record for record in caplog.records if record.name == LOGGER]
    found = {
        name: vars(record)[name]
        for name in ("client_id", "job_id", "attempt", "leader", "running", "available")
    }
    assert (record.levelname, record.msg) == ("INFO", "worker heartbeat")
    assert found == {
        "client_id": client.id,
        "job_id": event.job.id,
        "attempt": 1,
        "leader": is_leader,
        "running": 1,
        "available": 0,
    }
    assert 0 < vars(record)["database_ms"] < GENEROUS_SECONDS * 1_000


async def test_heartbeat_is_due_every_minute_and_at_start() -> None:
    """By default it is due once a minute, and once when a client becomes leader."""
    periodic_job = add_heartbeat(Workers())
    first = periodic_job.schedule

    assert first == add_heartbeat(Workers(), interval=timedelta(seconds=60)).schedule
    assert (periodic_job.id, periodic_job.run_on_start) == ("heartbeat", True)
    assert periodic_job.opts is not None
    assert periodic_job.opts.max_attempts == 1


async def test_heartbeats_do_not_pile_up(inserter: Client) -> None:
    """While one waits, no second is inserted; after it was worked, the next one is."""
    periodic_job = add_heartbeat(Workers(), interval=timedelta(days=1_000))

    first, second = await _insert(inserter, periodic_job), await _insert(inserter, periodic_job)
    await inserter.jobs.cancel(first.job.id)
    third = await _insert(inserter, periodic_job)

    assert [result.unique_skipped_as_duplicate for result in (first, second, third)] == [False, True, False]
    assert second.job.id == first.job.id


async def test_heartbeat_does_not_wait_for_one_that_died(
    inserter: Client, schema_driver: AsyncpgDriver
) -> None:
    """A heartbeat whose worker was killed holds its key for ten intervals at most."""
    opts = add_heartbeat(Workers(), interval=timedelta(minutes=1)).opts
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


def test_heartbeat_is_registered_once() -> None:
    """A user's own kind `heartbeat` is not replaced."""
    workers = Workers()
    add_heartbeat(workers)

    with pytest.raises(ConfigError) as refused:
        add_heartbeat(workers)

    assert str(refused.value).startswith("kind must be registered once, got 'heartbeat' of worker ")
