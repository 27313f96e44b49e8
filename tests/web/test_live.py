from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from factory import insert_job
from millhand.client_row import LANGUAGE
from millhand.clock import SystemClock
from millhand.control import JobControl, QueueControl
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.job import JobState
from millhand.store.queue import queue_create_or_set_updated_at
from millhand.web.database import WebDatabase
from millhand.web.live import Watcher, changes_between, events, live_state

GENEROUS_SECONDS = 20.0


@pytest.fixture
def database(schema_driver: AsyncpgDriver) -> WebDatabase:
    return WebDatabase(schema_driver, SystemClock())


async def _changed(database: WebDatabase, *statements: object) -> list[set[str]]:
    """Return what each statement changes."""
    changed = []
    before = await live_state(database)
    for statement in statements:
        await statement  # type: ignore[misc]
        after = await live_state(database)
        changed.append(changes_between(before, after))
        before = after
    return changed


async def test_each_change_of_jobs_and_queues_is_seen(
    database: WebDatabase, schema_driver: AsyncpgDriver
) -> None:
    """An insert, a cancel, a retry, a new queue and a pause change their regions; the heartbeat of a queue does not."""
    pool = schema_driver.pool
    job = await insert_job(pool, JobState.AVAILABLE)
    jobs, queues = JobControl(schema_driver, SystemClock()), QueueControl(schema_driver, SystemClock())

    changed = await _changed(
        database,
        insert_job(pool, JobState.SCHEDULED),
        jobs.cancel(job.id),
        jobs.retry(job.id),
        pool.run(queue_create_or_set_updated_at("mail")),
        queues.pause("mail"),
        pool.run(queue_create_or_set_updated_at("mail")),
    )

    both = {"jobs", "queues"}
    assert changed == [both, both, both, {"queues"}, {"queues"}, set()]


async def test_start_and_stop_of_a_client_change_the_fleet(
    database: WebDatabase, schema_driver: AsyncpgDriver
) -> None:
    """A client that registers changes the fleet; its next heartbeat does not."""
    prefix = f'"{schema_driver.schema}".'
    insert = f"""
        INSERT INTO {prefix}millhand_client
            (id, language, version, hostname, pid, kinds, queues, queue_updates, heartbeat_interval, started_at,
            last_seen_at)
        VALUES ('a', '{LANGUAGE}', '1', 'h', 1, '{{}}', '{{}}', '{{}}', interval '15 s', now(), now())
    """

    changed = await _changed(
        database,
        schema_driver.pool.fetch(insert),
        schema_driver.pool.fetch(f"UPDATE {prefix}millhand_client SET last_seen_at = now()"),
        schema_driver.pool.fetch(f"UPDATE {prefix}millhand_client SET stopped_at = now()"),
    )

    assert changed == [{"fleet"}, set(), {"fleet"}]


async def test_every_browser_gets_a_change_and_the_last_one_ends_the_task(
    database: WebDatabase, schema_driver: AsyncpgDriver
) -> None:
    """Two browsers get the same event of one change; when both have gone, the task ends."""
    watcher = Watcher(database, interval_seconds=0.001)
    streams = [events(watcher), events(watcher)]
    for stream in streams:
        await anext(stream)  # the greeting
    tasks = [asyncio.create_task(_first_change(stream)) for stream in streams]
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not all(task.done() for task in tasks):
            await insert_job(schema_driver.pool)  # until the first look at the database lies before an insert

    assert [task.result() for task in tasks] == [b"event: changed\ndata: jobs queues\n\n"] * 2
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(GENEROUS_SECONDS):
        await asyncio.wait([watcher._task])  # type: ignore[list-item]


async def _first_change(stream: AsyncIterator[bytes]) -> bytes:
    return await anext(stream)
