from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from functools import partial

import pytest

from factory import insert_job
from millhand.capabilities import JOB_CHANGES
from millhand.core.client_row import LANGUAGE
from millhand.core.clock import SystemClock
from millhand.core.errors import ConnectionLost
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.control import JobControl, QueueControl
from millhand.engine.store.live import live_get_jobs
from millhand.engine.store.queue import queue_create_or_set_updated_at
from millhand.shells.web.database import StatementTimes, WebDatabase
from millhand.web.live import UNAVAILABLE, Watcher, changes_between, events, live_state, loaded_at

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
    jobs, queues = (
        JobControl(schema_driver, SystemClock(), changes=JOB_CHANGES),
        QueueControl(schema_driver, SystemClock()),
    )

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


def named(event: bytes) -> bytes:
    """Return an event without the name of its look, which is random."""
    return re.sub(rb"\Aid: [0-9a-f]{16}\n", b"", event)


async def test_every_browser_gets_a_change_and_the_last_one_ends_the_task(
    database: WebDatabase, schema_driver: AsyncpgDriver
) -> None:
    """Two browsers get the same event of one change; when both have gone, the task ends."""
    watcher = Watcher(partial(live_state, database), database.clock, interval_seconds=0.001)
    streams = [events(watcher), events(watcher)]
    async with asyncio.timeout(GENEROUS_SECONDS):
        first = [[await anext(stream) for _ in range(2)] for stream in streams]
        await insert_job(schema_driver.pool)
        changed = [await anext(stream) for stream in streams]

    assert [[one[0], named(one[1])] for one in first] == [
        [b"retry: 3000\n\n", b"event: changed\ndata: bulk fleet history jobs queues\n\n"]
    ] * 2
    assert [named(one) for one in changed] == [b"event: changed\ndata: jobs queues\n\n"] * 2
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(GENEROUS_SECONDS):
        await asyncio.wait([watcher._task])  # type: ignore[list-item]


async def test_browser_gets_what_changed_since_its_page_was_loaded(
    database: WebDatabase, schema_driver: AsyncpgDriver
) -> None:
    """A change between the load of a page and its connection is the first event; an unchanged page gets none."""
    watcher = Watcher(partial(live_state, database), database.clock, interval_seconds=0.001)
    async with asyncio.timeout(GENEROUS_SECONDS), watcher.listener() as other:
        await other.next()
        loaded = database.clock.now()
        await insert_job(schema_driver.pool)
        await other.next()
        async with (
            watcher.listener(loaded) as late,
            watcher.listener(database.clock.now()) as current,
            watcher.listener(loaded - timedelta(hours=1)) as old,
        ):
            assert await late.next() == {"jobs", "queues"}
            assert await old.next() == {"bulk", "fleet", "history", "jobs", "queues"}
            assert current._changed == set()


async def test_browsers_get_an_outage_and_its_end() -> None:
    """
    A browser that connects during an outage gets it at once, and all regions at the end.

    One that has not taken the first event by then gets the second only.
    """
    is_away = True

    async def state(_before: dict[str, str]) -> dict[str, str]:
        if is_away:
            raise ConnectionLost("look", "the server is gone")
        return {"jobs": "1"}

    watcher = Watcher(state, SystemClock(), interval_seconds=0.001)
    async with asyncio.timeout(GENEROUS_SECONDS), watcher.listener() as first, watcher.listener() as slow:
        during = [await first.next()]
        async with watcher.listener() as late:
            during.append(await late.next())
            is_away = False
            after = [await late.next(), await slow.next(), await first.next()]
    await watcher.stop()

    assert during == [{UNAVAILABLE}] * 2
    assert after == [{"jobs", "queues"}] * 3


async def test_jobs_that_have_not_ended_are_counted_only_if_no_job_was_inserted_or_ended(
    schema_driver: AsyncpgDriver,
) -> None:
    """The count reads dead index entries, so it is left out where the text differs without it."""
    pool = schema_driver.pool
    await insert_job(pool, JobState.AVAILABLE)
    first = await pool.run(live_get_jobs())
    same = await pool.run(live_get_jobs(first))
    await insert_job(pool, JobState.AVAILABLE)
    later = await pool.run(live_get_jobs(same))
    last = await pool.run(live_get_jobs(later))

    assert first == same
    assert first.endswith("; [1, 0, 0, 0, 0]")
    assert later.endswith("; None")
    assert last.endswith("; [2, 0, 0, 0, 0]")
    assert last.partition(";")[0] == later.partition(";")[0]


async def test_pause_after_a_look_is_fifty_times_as_long_as_the_database_worked() -> None:
    """Between 2.5 and 15 seconds, also for pages that are loaded after the look; what was before it does not count."""
    busy, pauses = 100.0, []

    async def state(_before: dict[str, str]) -> dict[str, str]:
        return {"jobs": str(busy)}

    watcher = Watcher(state, SystemClock(), busy_seconds=lambda: busy)
    async with watcher.listener() as listener:
        await listener.next()
        for seconds in (0.0, 0.04, 0.06, 9.0):
            busy += seconds
            pauses.append(watcher.pause_seconds)
    await watcher.stop()

    assert pauses == pytest.approx([2.5, 2.5, 5.0, 15.0])


def test_round_trips_are_no_work_of_the_database() -> None:
    """What the fastest statement takes is not counted: over a slow network the page is as live as over a fast one."""
    times = StatementTimes()
    for seconds in (0.051, 0.050, 0.050, 0.250):
        times.record(seconds)

    assert times.busy_seconds == pytest.approx(0.2)


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-01-05", "2026-01-05T10:00:00"])
def test_time_of_a_page_that_is_no_instant_is_none(text: str | None) -> None:
    """A browser that gives no instant gets all regions first, as one whose page is old."""
    assert loaded_at(text) is None
