"""An outcome counts for its own attempt only."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import datetime, timedelta

import msgspec
import pytest

from client_harness import APPLICATION, GENEROUS, Act, ClientHarness
from factory import NOW
from held_driver import HeldDriver
from millhand.core.clock import SystemClock
from millhand.core.errors import JobSnooze
from millhand.core.event import EventKind
from millhand.core.job import ClientId, JobState
from millhand.core.transition import Completed, Failed, settle
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.attempt import Attempt
from millhand.engine.completer import Completer
from millhand.engine.store.job import job_get_available
from millhand.engine.subscription import Subscriptions
from millhand.testing import Probe

AGAIN = "UPDATE river_job SET state = 'available', scheduled_at = now()"
GRANTED = """
CREATE ROLE {role};
GRANT USAGE ON SCHEMA public TO {role};
GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role};
"""
LATER = "UPDATE river_job SET state = 'scheduled', scheduled_at = now() + interval '1 hour'"
NOTIFY = """SELECT pg_notify('public.river_insert', '{"queue": "default"}')"""


async def test_attempt_whose_job_was_fetched_again_changes_nothing(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Its error, output and state are dropped with one log line; those of the other attempt count."""
    ends = [asyncio.Event(), asyncio.Event()]
    begun = asyncio.Semaphore(0)
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        number = job.attempt - 1
        job.record_output(number)
        begun.release()
        await ends[number].wait()
        if number == 0:
            raise ValueError("too late")

    with caplog.at_level(logging.WARNING, "millhand.engine"):
        async with harness.client(workers) as client:
            with client.subscribe() as events:
                inserted = await client.insert(Act("x"))
                await asyncio.wait_for(begun.acquire(), GENEROUS)
                await harness.execute(AGAIN)
                await harness.execute(NOTIFY)
                await asyncio.wait_for(begun.acquire(), GENEROUS)
                assert client._engine is not None
                probe = Probe(client._engine.completer)
                ends[0].set()
                await probe.wait("written")
                between = await harness.row(inserted.job.id)
                ends[1].set()
                event = await harness.next(events)

    assert (between.state, between.errors, between.metadata) == (JobState.RUNNING, (), {})
    assert (event.kind, event.job) == (EventKind.JOB_COMPLETED, await harness.row(inserted.job.id))
    assert (event.job and event.job.output, event.job and event.job.attempt) == (1, 2)
    [record] = [record for record in caplog.records if record.name == "millhand.engine.pending_change"]
    actual = {name: getattr(record, name) for name in ("job_id", "kind", "queue", "attempt", "state")}
    assert record.msg == "outcome came too late"
    assert actual == {
        "job_id": inserted.job.id, "kind": "act", "queue": "default", "attempt": 1, "state": "available",
    }  # fmt: skip


async def test_attempt_whose_job_was_rescued_changes_nothing(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that waits for another attempt keeps its state and metadata, and no event is emitted."""
    go_on, started = asyncio.Event(), asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        job.record_output(1)
        started.set()
        await go_on.wait()

    with caplog.at_level(logging.WARNING, "millhand.engine"):
        async with harness.client(workers) as client:
            with client.subscribe() as events:
                inserted = await client.insert(Act("x"))
                await asyncio.wait_for(started.wait(), GENEROUS)
                await harness.execute(LATER)
                given_back = await harness.row(inserted.job.id)
                go_on.set()
                await client.stop()
                actual = [event async for event in events]

    assert await harness.row(inserted.job.id) == given_back
    assert actual == []
    assert [record.msg for record in caplog.records] == ["outcome came too late"]


async def test_later_attempt_counts_in_whatever_order_they_are_handed_over(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two attempts that wait to be written, the later fetched one counts."""
    completer = Completer(
        harness.driver.pool,
        ClientId("me"),
        clock=SystemClock(),
        on_available=lambda _: None,
        subscriptions=Subscriptions(),
    )
    fetch = job_get_available(queue="default", limit=1, client_id=ClientId("me"))
    await harness.insert_raw("act", "{}")
    [old] = await harness.driver.pool.run(fetch)
    await harness.execute(AGAIN)
    [new] = await harness.driver.pool.run(fetch)
    success = settle(new, Completed(), now=NOW, started_at=NOW)
    failure = settle(old, Failed("late", NOW), now=NOW, started_at=NOW)

    with caplog.at_level(logging.WARNING, "millhand.engine"):
        for change, job in ((failure, old), (success, new), (failure, old)):
            completer.hand_over(change, Attempt(job))
        await completer.start()
        await completer.stop()

    row = await harness.row(new.id)
    assert row == msgspec.structs.replace(new, state=JobState.COMPLETED, finalized_at=NOW)
    assert [record.msg for record in caplog.records] == ["outcome came too late"] * 2


async def test_fencing_token_grows_with_each_fetch(harness: ClientHarness) -> None:
    """After a snooze the next attempt has the same number and a larger token."""
    seen: list[tuple[int, int]] = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        seen.append((job.attempt, job.fencing_token))
        if len(seen) < 3:
            raise JobSnooze(timedelta(0))

    async with harness.client(workers) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            inserted = await client.insert(Act("x"))
            await harness.next(events)

    row = await harness.row(inserted.job.id)
    assert [attempt for attempt, _ in seen] == [1, 1, 1]
    assert seen[0][1] < seen[1][1] < seen[2][1]
    assert row.attempted_at is not None
    assert seen[2][1] == round(row.attempted_at.timestamp() * 1_000_000)


async def test_client_that_was_declared_dead_cancels_lost_attempts(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """Attempts fetched before the declaration are cancelled by the next heartbeat; later ones continue."""
    caplog.set_level(logging.INFO)
    begun = asyncio.Semaphore(0)
    ended: list[str] = []
    go_on = asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        begun.release()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            ended.append(job.args.what)
            raise

    # Heartbeats come only when woken: an earlier one would cancel the attempt before its job is rescued.
    seldom = {"client_heartbeat_interval": timedelta(minutes=5), "leader_election": False}
    async with harness.client(workers, client_id="lost", **seldom) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            before = await client.insert(Act("before"))
            await asyncio.wait_for(begun.acquire(), GENEROUS)
            assert client._engine is not None
            probe = Probe(client._engine.completer)
            # In one transaction: a heartbeat in between would see the declaration of death, and the job still running here.
            await harness.execute(f"WITH lost AS (UPDATE millhand_client SET lost_at = now()) {LATER}")
            given_back = await harness.row(before.job.id)
            await client.insert(Act("after"))
            await asyncio.wait_for(begun.acquire(), GENEROUS)
            client._engine.heartbeat.wake_event.set()
            await probe.wait("written")
            go_on.set()
            event = await harness.next(events)

    assert ended == ["before"]
    assert await harness.row(before.job.id) == given_back
    assert event.job is not None
    assert event.job.args == {"what": "after"}
    actual = [record.msg for record in caplog.records if record.levelno == logging.WARNING]
    assert actual == ["client was declared dead", "attempts lost", "outcome came too late"]


@pytest.mark.slow
@pytest.mark.parametrize("loses_answer", [False, True])
async def test_client_that_was_declared_dead_starts_no_attempt_of_an_earlier_fetch(
    harness: ClientHarness, *, loses_answer: bool
) -> None:
    """Neither the answer of the fetch nor a search for the lost one starts the job, which belongs to others by then."""
    ran: list[datetime | None] = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        ran.append(job.row.attempted_at)

    driver = HeldDriver(harness.url)
    driver.held_pool.loses_answer = loses_answer
    seldom = {"client_heartbeat_interval": timedelta(minutes=5), "leader_election": False}
    async with harness.client(workers, database=driver, **seldom) as client:
        with client.subscribe(EventKind.JOB_COMPLETED) as events:
            await client.insert(Act("x"))
            await asyncio.wait_for(driver.held_pool.is_held.wait(), GENEROUS)
            [dead] = await harness.driver.pool.fetch(
                "UPDATE millhand_client SET lost_at = now() RETURNING lost_at"
            )
            assert client._engine is not None
            probe = Probe(client._engine.heartbeat)
            client._engine.heartbeat.wake_event.set()
            await probe.wait("heartbeat")
            driver.held_pool.let_go.set()
            await harness.next(events)

    [fetched] = ran
    assert fetched is not None
    assert fetched > dead["lost_at"]


@pytest.mark.slow
async def test_client_without_rights_cancels_attempts_that_others_have(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows of its jobs show which attempts are lost; the others continue, also one that completed its job itself."""
    begun = asyncio.Semaphore(0)
    ended: list[tuple[str, str]] = []
    go_on = asyncio.Event()
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        if job.args.what == "completed":
            async with harness.driver.pool.begin() as tx:
                await job.complete(tx=tx)
        begun.release()
        try:
            await go_on.wait()
            ended.append((job.args.what, "ended"))
        except asyncio.CancelledError:
            ended.append((job.args.what, "cancelled"))
            raise

    role = f"millhand_refused_{os.getpid()}"
    await harness.driver.pool.execute_script(GRANTED.format(role=role))
    try:
        # Without leader election: a leader's services would log the missing rights as well.
        database = f"{harness.url_as(APPLICATION)}&role={role}"
        client = harness.client(workers, client_id="refused", database=database, leader_election=False)
        async with client:
            jobs = [await client.insert(Act(what)) for what in ("given", "kept", "completed")]
            for _ in jobs:
                await asyncio.wait_for(begun.acquire(), GENEROUS)
            assert client._engine is not None
            probe = Probe(client._engine.completer)
            await harness.execute(f"REVOKE ALL ON millhand_client FROM {role}")
            await harness.execute(f"{LATER} WHERE id = {jobs[0].job.id}")
            given_back = await harness.row(jobs[0].job.id)
            client._engine.heartbeat.wake_event.set()
            await probe.wait("written")
            go_on.set()
    finally:
        await harness.driver.pool.execute_script(f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert ended[0] == ("given", "cancelled")
    assert sorted(ended[1:]) == [("completed", "ended"), ("kept", "ended")]
    assert await harness.row(jobs[0].job.id) == given_back
    assert (await harness.row(jobs[1].job.id)).state is JobState.COMPLETED
    actual = [record.msg for record in caplog.records if record.levelno == logging.WARNING]
    assert actual == ["client not registered", "attempts lost", "outcome came too late"]
