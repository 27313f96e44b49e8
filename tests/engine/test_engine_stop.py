"""The shutdown sequence: its effect on running attempts, rows and the log."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import timedelta

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.core.event import EventKind
from millhand.core.job import JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job


class Blocker:
    """A worker that signals when it runs and waits until it is released or cancelled."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = False
        self.workers = Workers()
        self.workers.add()(self.act)

    async def act(self, job: Job[Act]) -> None:
        self.started.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            if job.args.what == "return all the same":
                return
            if job.args.what == "fail":
                raise ValueError("while cleaning up") from None
            if job.args.what == "wrap":
                raise ValueError("interrupted") from asyncio.CancelledError()
            if job.args.what == "raise another":
                raise RuntimeError("another")  # noqa: B904 - no cause on purpose
            raise


async def _begin(harness: ClientHarness, blocker: Blocker, what: str = "block") -> Client:
    client = harness.client(blocker.workers)
    await client.start()
    await client.insert(Act(what))
    await asyncio.wait_for(blocker.started.wait(), GENEROUS)
    return client


async def test_stop_waits_for_running_attempts(harness: ClientHarness) -> None:
    """Without a timeout a stop waits until running attempts complete."""
    blocker = Blocker()
    client = await _begin(harness, blocker)

    stopping = asyncio.create_task(client.stop())
    blocker.go_on.set()
    await asyncio.wait_for(stopping, GENEROUS)

    [row] = await harness.rows()
    assert (row.state, row.attempt, blocker.cancelled) == (JobState.COMPLETED, 1, False)


@pytest.mark.parametrize(
    ("what", "state", "attempt", "num_errors"),
    [
        ("block", JobState.AVAILABLE, 0, 0),
        ("wrap", JobState.AVAILABLE, 0, 0),
        ("return all the same", JobState.COMPLETED, 1, 0),
        ("fail", JobState.AVAILABLE, 1, 1),
        ("raise another", JobState.AVAILABLE, 1, 1),
    ],
)
async def test_stop_interrupts_attempts_that_outlast_the_timeout(
    harness: ClientHarness, what: str, state: JobState, attempt: int, num_errors: int
) -> None:
    """
    hard_shutdown_soft_stop_classification.

    After the timeout attempts are cancelled: interrupted ones are not counted, and one that raises its own error is.
    """
    blocker = Blocker()
    client = await _begin(harness, blocker, what)

    await asyncio.wait_for(client.stop(soft_stop_timeout=timedelta(0)), GENEROUS)

    [row] = await harness.rows()
    assert blocker.cancelled
    assert (row.state, row.attempt, len(row.errors)) == (state, attempt, num_errors)


async def test_cancel_attempts_makes_a_stop_hard(harness: ClientHarness) -> None:
    """A stop that waits without a timeout cancels its attempts when `cancel_attempts` is called."""
    blocker = Blocker()
    client = await _begin(harness, blocker)

    stopping = asyncio.create_task(client.stop())
    client.cancel_attempts()
    await asyncio.wait_for(stopping, GENEROUS)

    [row] = await harness.rows()
    assert (row.state, row.attempt) == (JobState.AVAILABLE, 0)


async def test_stop_of_a_job_cancelled_meanwhile_ends_it_cancelled(harness: ClientHarness) -> None:
    """
    shutdown_after_cancel_attempt.

    An interrupted attempt of a job with a requested cancel does not become available again.
    """
    blocker = Blocker()
    client = await _begin(harness, blocker)
    [row] = await harness.rows()
    await harness.execute(
        'UPDATE river_job SET metadata = metadata || \'{"cancel_attempted_at": "2026-01-01T00:00:00Z"}\''
    )

    await asyncio.wait_for(client.stop(soft_stop_timeout=timedelta(0)), GENEROUS)

    assert (await harness.row(row.id)).state is JobState.CANCELLED


async def test_stop_interrupts_a_call_that_waits_for_a_thread(harness: ClientHarness) -> None:
    """A plain function without a thread does not start during a stop; its attempt is interrupted and not counted."""
    begun: list[int] = []
    started = threading.Event()
    workers = Workers()

    @workers.add()
    def act(job: Job[Act]) -> None:
        begun.append(job.id)
        started.set()
        while not job.is_cancel_requested:
            pass

    client = harness.client(workers, max_threads=1)
    await client.start()
    await client.insert_many([Act(str(n)) for n in range(3)])
    await asyncio.to_thread(started.wait, GENEROUS)

    await asyncio.wait_for(client.stop(soft_stop_timeout=timedelta(0)), GENEROUS)

    [first] = begun
    outcomes = {row.id: (row.state, row.attempt) for row in await harness.rows()}
    assert outcomes.pop(first) == (JobState.COMPLETED, 1)
    assert list(outcomes.values()) == [(JobState.AVAILABLE, 0)] * 2


async def test_stop_abandons_a_thread_that_never_ends(
    harness: ClientHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    ignored_cancellation_hard_abort.

    A plain function that ignores cancellation is abandoned after a while, and its job stays running for the rescuer.
    """
    monkeypatch.setattr("millhand.engine.engine.ABANDON_SECONDS", 0.05)
    started, end = threading.Event(), threading.Event()
    workers = Workers()

    @workers.add()
    def act(job: Job[Act]) -> None:
        started.set()
        end.wait()

    client = harness.client(workers)
    await client.start()
    await client.insert(Act("deaf"))
    await asyncio.to_thread(started.wait, GENEROUS)

    with caplog.at_level(logging.INFO):
        await asyncio.wait_for(client.stop(soft_stop_timeout=timedelta(0)), GENEROUS)
    end.set()

    [row] = await harness.rows()
    assert row.state is JobState.RUNNING
    assert [
        record.msg
        for record in caplog.records
        if record.name.startswith(("millhand.engine.engine", "millhand.client"))
    ] == ["worker stopping", "attempts cancelled", "attempts abandoned", "worker stopped"]
    logged = {record.msg: vars(record) for record in caplog.records}
    for message in ("attempts cancelled", "attempts abandoned"):
        fields = [logged[message][field] for field in ("num_jobs", "kinds", "job_ids")]
        assert fields == [1, f"{row.kind}:1", f"{row.id}"]
    assert "job.check_cancel_requested()" in logged["attempts abandoned"]["remedy"]


@pytest.mark.slow
async def test_stop_logs_one_line_for_each_step(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """From `worker stopping` to `worker stopped` each step of the shutdown sequence is logged once, in order."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    client = harness.client(workers, leader_election=True)
    await client.start()
    await harness.work(client, Act("x"))

    with caplog.at_level(logging.DEBUG, "millhand"):
        await asyncio.wait_for(client.stop(signal="SIGINT"), GENEROUS)

    records = [
        record for record in caplog.records if record.name in ("millhand.engine.engine", "millhand.client")
    ]
    assert [record.msg for record in records] == [
        "worker stopping",
        "fetching stopped",
        "completions written",
        "maintenance stopped",
        "term resigned",
        "listener closed",
        "worker stopped",
    ]
    assert (records[0].signal, records[-1].completed, records[-1].failed) == ("SIGINT", 1, 0)


async def test_stop_ends_subscriptions_and_can_be_followed_by_a_start(harness: ClientHarness) -> None:
    """Subscriptions end with the client, and the same client starts again and works."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    client = harness.client(workers)
    await client.start()
    events = client.subscribe()
    await client.stop()
    await client.stop()

    assert [event async for event in events] == []
    async with client:
        event = await harness.work(client, Act("again"))
    assert event.kind is EventKind.JOB_COMPLETED


async def test_stop_leaves_no_leader_and_no_connection(harness: ClientHarness) -> None:
    """After a stop the term is resigned and no connection of the client is open."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    async with harness.client(workers) as client:
        await harness.work(client, Act("x"))

    [leaders] = await harness.driver.pool.fetch("SELECT count(*) AS n FROM river_leader")
    assert leaders["n"] == 0
