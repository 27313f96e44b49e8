"""Fetches whose answer never came: what they took is worked all the same, and nothing twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.errors import ConnectionLost, DriverError, OperationTimeout
from millhand.event import EventKind
from millhand.job import ClientId, Job, JobId, JobRow, JobState
from millhand.runtime.lost_fetch_search import LATE_SECONDS, RESENT_SECONDS, LostFetchSearch
from millhand.runtime.producer import Producer
from millhand.store.job import job_get_available
from millhand.store.job_fetch import START, job_get_available_above
from millhand.testing.probe import Probe
from millhand.worker import Workers
from proxy import Direction, proxied

BEGIN = datetime(2026, 11, 25, 12, tzinfo=UTC)
NUM_JOBS = 5
INSERT = """
INSERT INTO river_job (kind, args, max_attempts)
SELECT 'act', jsonb_build_object('what', n::text), 25 FROM generate_series(1, $1::int) AS n
"""


async def test_jobs_of_a_fetch_whose_answer_was_lost_are_worked(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """The database has marked them running, the connection is gone: they are found by the client's id, and worked once."""
    worked: list[str] = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        worked.append(job.args.what)

    settings = {"fetch_poll_interval": timedelta(seconds=60)}
    async with (
        proxied(harness.url) as proxy,
        harness.client(workers, database=proxy.url, **settings) as client,
    ):
        before = await harness.work(client, Act("before"))
        with client.subscribe() as events, caplog.at_level(logging.WARNING, "millhand.runtime.producer"):
            [producer] = client._engine.queues.producers.values()
            await _until_all_know_the_fetch(client)
            await _until_no_fetch(harness, producer)
            proxy.stop_up([Direction.TO_CLIENT])
            await harness.driver.pool.fetch(INSERT, [NUM_JOBS])
            producer.on_insert()
            await _until_running(harness)
            proxy.cut()
            proxy.mend()
            told = [(await harness.next(events)).kind for _ in range(NUM_JOBS)]

    rows = await harness.rows()
    assert before.kind is EventKind.JOB_COMPLETED
    assert told == [EventKind.JOB_COMPLETED] * NUM_JOBS
    assert sorted(worked) == ["1", "2", "3", "4", "5", "before"]
    assert {(row.state, row.attempt) for row in rows} == {(JobState.COMPLETED, 1)}
    told_of_fetches = [record.message for record in caplog.records if record.name.endswith(".producer")]
    assert told_of_fetches == ["lost fetch found"]


@pytest.mark.slow
async def test_jobs_of_a_fetch_that_arrives_when_others_were_answered_are_worked(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The network lost the statement, and the kernel sends it again when we are long connected anew: it takes jobs for nobody.

    They were looked for twice by then.
    """
    worked: list[str] = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        worked.append(job.args.what)

    settings = {"fetch_poll_interval": timedelta(seconds=60)}
    async with (
        proxied(harness.url) as proxy,
        harness.client(workers, database=proxy.url, **settings) as client,
    ):
        await harness.work(client, Act("before"))
        with client.subscribe() as events, caplog.at_level(logging.WARNING, "millhand.runtime.producer"):
            [producer] = client._engine.queues.producers.values()
            await _until_all_know_the_fetch(client)
            await _until_no_fetch(harness, producer)
            proxy.hold()
            probe = Probe(producer)
            producer.on_insert()
            for _ in range(2):
                await probe.wait("fetched", timeout_seconds=3 * GENEROUS)
            await harness.driver.pool.fetch(INSERT, [NUM_JOBS])
            proxy.mend()
            await _until_running(harness)
            told = [(await harness.next(events)).kind for _ in range(NUM_JOBS)]

    rows = await harness.rows()
    assert told == [EventKind.JOB_COMPLETED] * NUM_JOBS
    assert sorted(worked) == ["1", "2", "3", "4", "5", "before"]
    assert {(row.state, row.attempt) for row in rows} == {(JobState.COMPLETED, 1)}
    told_of_fetches = [record.message for record in caplog.records if record.name.endswith(".producer")]
    assert told_of_fetches == ["lost fetch found"]


async def _until_all_know_the_fetch(client: Client) -> None:
    """Return when each connection of a full pool has prepared it: else the server would have to answer before it fetches."""
    me = ClientId("nobody")
    for fetch in (
        job_get_available(queue="nobody", limit=1, client_id=me),
        job_get_available_above(START, queue="nobody", limit=1, client_id=me),
    ):
        await asyncio.gather(*(client._driver.pool.fetch("SELECT pg_sleep(0.1)") for _ in range(10)))
        await asyncio.gather(*(client._driver.pool.run(fetch) for _ in range(10)))


async def _until_no_fetch(harness: ClientHarness, producer: Producer) -> None:
    """Return when no fetch is on its way: one that was sent before the jobs were there would take none."""
    while producer._cancelled_while_fetching is not None:
        await harness.driver.pool.fetch("SELECT 1")


async def _until_running(harness: ClientHarness) -> None:
    sql = "SELECT count(*) AS num FROM river_job WHERE state = 'running'"
    async with asyncio.timeout(GENEROUS):
        while (await harness.driver.pool.fetch(sql))[0]["num"] < NUM_JOBS:
            pass


@dataclass(frozen=True)
class Lost:
    """A fetch was lost at 100 s, after one that was answered had brought job 1."""

    fetches: LostFetchSearch

    def look(self, now: float, *seen: JobRow, took: float = 0.0) -> Sequence[JobId]:
        assert self.fetches.is_due(now)
        return [job.id for job in self.fetches.record_found(seen, asked=now, now=now + took)]


@pytest.fixture
def lost() -> Lost:
    fetches = LostFetchSearch(BEGIN)
    fetches.record_answered([row(1, 1)])
    fetches.record_failed(ConnectionLost("job_get_available", "gone"), 100.0)
    return Lost(fetches)


def row(id: int, seconds: float) -> JobRow:
    """A job that was fetched so many seconds after the beginning."""
    at = BEGIN + timedelta(seconds=seconds)
    return JobRow(
        id=JobId(id),
        attempt=1,
        attempted_at=at,
        attempted_by=("client",),
        created_at=BEGIN,
        encoded_args="{}",
        errors=(),
        finalized_at=None,
        kind="act",
        max_attempts=25,
        metadata={},
        priority=1,
        queue="default",
        scheduled_at=BEGIN,
        state=JobState.RUNNING,
        tags=(),
        unique_key=None,
        unique_states=None,
    )


def test_look_is_for_what_came_after_the_last_answer(lost: Lost) -> None:
    """Whatever an answered fetch has brought was fetched no later than it; before any there is the beginning."""
    assert LostFetchSearch(BEGIN).after == BEGIN
    assert lost.fetches.after == BEGIN + timedelta(seconds=1)


def test_look_is_taken_again_as_long_as_the_statement_may_arrive(lost: Lost) -> None:
    """At once, and every ten seconds for a server that was late, until the kernel has given up; then it is over."""
    last, n = 100.0 + RESENT_SECONDS, round(RESENT_SECONDS / LATE_SECONDS)

    found = [lost.look(100.0 + LATE_SECONDS * look) for look in range(n)]

    assert found == [[]] * n
    assert (lost.fetches.seconds_left(last - 1), lost.fetches.is_due(last - 1)) == (1.0, False)
    assert lost.look(last, row(3, 3)) == [3]
    assert (lost.fetches.seconds_left(last), lost.fetches.is_due(1e9)) == (None, False)


def test_look_that_takes_long_is_followed_by_a_longer_rest(lost: Lost) -> None:
    """It reads what is dead as well, and costs a fiftieth of the time at most; the last one is taken when it must be."""
    lost.look(100.0, took=1.0)
    assert lost.fetches.seconds_left(101.0) == 50.0

    lost.look(151.0, took=2.0)
    assert lost.fetches.seconds_left(153.0) == 100.0 + RESENT_SECONDS - 153.0


def test_look_that_comes_late_is_the_last_one(lost: Lost) -> None:
    """A queue that was paused meanwhile is not looked through again and again."""
    assert lost.look(1e6, row(3, 3)) == [3]
    assert not lost.fetches.is_due(1e9)


def test_looks_remember_only_what_still_runs(lost: Lost) -> None:
    """What ran here and has ended since is never marked with its instant again, and nothing is kept of it."""
    lost.look(100.0)
    lost.fetches.record_answered([row(id, 4) for id in range(1_000, 2_000)])

    assert lost.look(110.0, row(1_500, 4)) == []
    assert lost.fetches._known == {(JobId(1_500), BEGIN + timedelta(seconds=4))}
    assert lost.look(120.0, row(1_500, 4), row(3, 3)) == [3]


def test_look_leaves_alone_what_later_fetches_have_brought(lost: Lost) -> None:
    """What was begun here since, and may have ended here without being written yet, is not begun again."""
    lost.look(100.0)
    lost.fetches.record_answered([row(4, 4)])

    assert lost.look(100.0 + LATE_SECONDS, row(3, 3), row(4, 4)) == [3]


def test_look_finds_a_job_again_that_a_later_fetch_had_brought(lost: Lost) -> None:
    """It came, failed and was due again at once, and the fetch that took it then was lost too."""
    lost.look(100.0)
    lost.fetches.record_answered([row(4, 4)])
    lost.fetches.record_failed(ConnectionLost("job_get_available", "gone"), 105.0)

    assert lost.look(105.0, row(4, 5)) == [4]
    assert lost.look(105.0 + LATE_SECONDS, row(4, 5)) == []


def test_second_loss_looks_as_far_back_as_the_first(lost: Lost) -> None:
    """While the first is not over, what it took may still come to light."""
    lost.look(100.0)
    lost.fetches.record_answered([row(5, 5)])
    lost.fetches.record_failed(OperationTimeout("job_get_available", 10.0), 105.0)

    assert lost.fetches.after == BEGIN + timedelta(seconds=1)
    assert lost.look(105.0, row(3, 3), row(5, 5)) == [3]


def test_loss_after_a_loss_that_is_over_looks_no_further_back(lost: Lost) -> None:
    """What is known by then is not looked for again."""
    lost.look(100.0, row(2, 2))
    lost.look(100.0 + RESENT_SECONDS)

    lost.fetches.record_failed(ConnectionLost("job_get_available", "gone"), 300.0)

    assert lost.fetches.after == BEGIN + timedelta(seconds=2)


def test_fetch_that_the_database_refused_has_taken_nothing() -> None:
    """An error that the server answered with undid the statement."""
    fetches = LostFetchSearch(BEGIN)

    fetches.record_failed(DriverError("job_get_available", "deadlock", retryable=True), 100.0)

    assert not fetches.is_due(1e9)
