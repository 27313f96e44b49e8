"""Fetching: which jobs, when, in which order, and on which notifications."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import asyncpg
import pytest

from client_harness import APPLICATION, GENEROUS, Act, ClientHarness
from millhand.core.config import StuckJob
from millhand.core.errors import JobSnooze
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job

NEVER_POLL = timedelta(minutes=10)
# The test processes share a server, and each has a database of its own.
LISTENERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
    f"AND query LIKE 'LISTEN%' AND application_name = '{APPLICATION}'"
)


class Gate:
    """A worker that counts how many run at once, and releases all of them."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go_on = asyncio.Event()
        self.news = asyncio.Event()
        self.num_running = 0
        self.num_running_max = 0
        self.workers = Workers()
        self.workers.add()(self.act)

    async def act(self, job: Job[Act]) -> None:
        self.begun.append(job.args.what)
        self.num_running += 1
        self.num_running_max = max(self.num_running, self.num_running_max)
        self.news.set()
        await self.go_on.wait()
        self.num_running -= 1

    async def wait_running(self, num: int) -> None:
        async with asyncio.timeout(GENEROUS):
            while self.num_running < num:
                self.news.clear()
                await self.news.wait()


@pytest.mark.slow
async def test_fetch_respects_priority_then_age(harness: ClientHarness) -> None:
    """One slot works jobs by priority, and those of one priority in the order of their insertion."""
    gate = Gate()
    gate.go_on.set()
    inserter = harness.client(Workers(), queues={})
    async with inserter:
        for what, priority in [("c", 2), ("e", 4), ("a", 1), ("d", 2), ("b", 1)]:
            await inserter.insert(Act(what), InsertOpts(priority=priority))

    async with harness.client(gate.workers, queues={"default": 1}) as client:
        with client.subscribe() as events:
            while len(gate.begun) < 5:
                await harness.next(events)

    assert gate.begun == ["a", "b", "c", "d", "e"]


@pytest.mark.slow
async def test_fetch_takes_no_more_jobs_than_slots(harness: ClientHarness) -> None:
    """At most max_workers jobs run, and the others stay available until a slot is free."""
    gate = Gate()

    async with harness.client(gate.workers, queues={"default": 3}) as client:
        with client.subscribe() as events:
            await client.insert_many([Act(str(n)) for n in range(10)])
            await gate.wait_running(3)
            waiting = [row for row in await harness.rows() if row.state is JobState.AVAILABLE]
            gate.go_on.set()
            for _ in range(10):
                await harness.next(events)

    assert len(waiting) == 7
    assert gate.num_running_max == 3
    assert {row.state for row in await harness.rows()} == {JobState.COMPLETED}


async def test_notification_wakes_the_fetch(harness: ClientHarness) -> None:
    """notification_only_wakeups; with polls an hour apart each insert is worked at once."""
    gate = Gate()
    gate.go_on.set()

    async with harness.client(gate.workers, fetch_poll_interval=NEVER_POLL) as client:
        kinds = [(await harness.work(client, Act(str(n)))).kind for n in range(5)]

    assert kinds == [EventKind.JOB_COMPLETED] * 5


@pytest.mark.slow
async def test_fetch_polls_without_notifications(harness: ClientHarness) -> None:
    """
    lost_notification_poll_recovery.

    In poll-only mode a client finds jobs, and the cancel of a running one, without listening.
    """
    gate = Gate()

    settings = {
        "database": harness.url_as("poll_only"),
        "poll_only": True,
        "fetch_poll_interval": timedelta(milliseconds=20),
    }
    async with harness.client(gate.workers, **settings) as client:
        with client.subscribe() as events:
            inserted = await client.insert(Act("x"))
            await gate.wait_running(1)
            listeners = await harness.driver.pool.fetch(LISTENERS.replace(APPLICATION, "poll_only"))
            await client.jobs.cancel(inserted.job.id)
            event = await harness.next(events)

    assert (listeners, event.kind) == ([], EventKind.JOB_CANCELLED)


@pytest.mark.slow
async def test_fetch_stops_while_the_queue_is_paused(harness: ClientHarness) -> None:
    """
    pause_resume_notification.

    A pause stops fetching, also for clients that start later; a resume continues at once; each emits one event.
    """
    gate = Gate()
    gate.go_on.set()

    async with harness.client(gate.workers) as client:
        with client.subscribe() as events:
            await client.queues.pause("default")
            paused = await harness.next(events)
            await client.insert(Act("waits"))
    async with harness.client(gate.workers) as client:
        with client.subscribe() as events:
            begun_while_paused = list(gate.begun)
            await client.queues.resume("*")
            emitted = [await harness.next(events), await harness.next(events)]

    assert (paused.kind, paused.queue) == (EventKind.QUEUE_PAUSED, "default")
    assert begun_while_paused == []
    assert [event.kind for event in emitted] == [EventKind.QUEUE_RESUMED, EventKind.JOB_COMPLETED]


async def test_pause_without_a_notification_is_found_after_a_reconnect(harness: ClientHarness) -> None:
    """
    listener_backend_disconnect_reconnect.

    A pause whose notification was lost applies when the listener connects again.
    """
    gate = Gate()

    async with harness.client(gate.workers) as client:
        with client.subscribe(EventKind.QUEUE_PAUSED) as events:
            await harness.execute("UPDATE river_queue SET paused_at = now()")
            await harness.execute(f"SELECT pg_terminate_backend(pid) FROM ({LISTENERS}) AS listener")
            event = await harness.next(events)

    assert event.queue == "default"


@pytest.mark.slow
async def test_cancel_during_the_fetch_reaches_the_job(harness: ClientHarness) -> None:
    """A cancel between the fetch and its answer applies, and the worker is never called."""
    gate = Gate()

    async with harness.client(gate.workers) as client:
        with client.subscribe() as events:
            blocker = await asyncpg.connect(harness.url)
            try:
                async with blocker.transaction():
                    inserted = await client.insert(Act("x"), tx=blocker)
                    await blocker.execute("LOCK TABLE river_job IN SHARE ROW EXCLUSIVE MODE")
                    [producer] = client._engine.queues.producers.values()
                    producer.request_fetch()
                    await _wait_blocked(harness)
                    producer.cancel(inserted.job.id)
            finally:
                await blocker.close()
            event = await harness.next(events)

    assert (event.kind, gate.begun) == (EventKind.JOB_CANCELLED, [])


async def _wait_blocked(harness: ClientHarness) -> None:
    """Return when a fetch waits for a lock on the jobs; other statements may wait too."""
    sql = (
        "SELECT 1 AS one FROM pg_locks INNER JOIN pg_stat_activity USING (pid) WHERE NOT granted "
        "AND datname = current_database() AND relation = 'river_job'::regclass AND query LIKE '-- name: job_get_available%'"
    )
    async with asyncio.timeout(GENEROUS):
        while not await harness.driver.pool.fetch(sql):
            pass


async def test_stuck_job_is_logged_and_may_free_its_slot(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """
    stuck_job_detection.

    An attempt that ignores its timeout is logged once, and the handler may free its slot.
    """
    emitted: list[StuckJob] = []
    ignored, end = asyncio.Event(), asyncio.Event()
    workers = Workers()

    @workers.add(timeout=timedelta(milliseconds=10))
    async def act(job: Job[Act]) -> None:
        if job.args.what == "deaf":
            while not end.is_set():
                try:
                    await end.wait()
                except asyncio.CancelledError:
                    ignored.set()

    def handler(stuck: StuckJob) -> bool:
        emitted.append(stuck)
        return True

    settings = {"job_stuck_threshold": timedelta(milliseconds=10), "job_stuck_handler": handler}
    with caplog.at_level(logging.WARNING, "millhand.engine.engine"):
        async with harness.client(workers, queues={"default": 1}, **settings) as client:
            with client.subscribe() as events:
                deaf = await client.insert(Act("deaf"))
                await asyncio.wait_for(ignored.wait(), GENEROUS)
                await client.insert(Act("other"))
                other = await harness.next(events)
                end.set()
                last = await harness.next(events)

    assert [(stuck.job.id, stuck.num_stuck) for stuck in emitted] == [(deaf.job.id, 1)]
    assert [record.msg for record in caplog.records] == ["job stuck"]
    assert other.job is not None
    assert other.job.args == {"what": "other"}
    assert last.job is not None
    assert (last.job.id, last.kind) == (deaf.job.id, EventKind.JOB_COMPLETED)


async def test_retry_that_is_due_soon_is_fetched_when_it_is_due(harness: ClientHarness) -> None:
    """A job that this client made available again does not wait for the next poll."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        if "snoozes" not in job.metadata:
            raise JobSnooze(timedelta(milliseconds=20))

    async with harness.client(workers, fetch_poll_interval=NEVER_POLL) as client:
        with client.subscribe() as events:
            await client.insert(Act("x"))
            kinds = [(await harness.next(events)).kind for _ in range(2)]

    assert kinds == [EventKind.JOB_SNOOZED, EventKind.JOB_COMPLETED]
