"""Fetches without an answer: their jobs are worked, each once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from client_harness import GENEROUS, Act, ClientHarness
from millhand.client import Client
from millhand.core.errors import ConnectionLost, DriverError, OperationTimeout
from millhand.core.event import EventKind
from millhand.core.job import ClientId, JobId, JobRow, JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.lost_fetch_search import LATE_SECONDS, RESENT_SECONDS, LostFetchSearch
from millhand.engine.producer import Producer
from millhand.engine.store.job import (
    START,
    job_get_available,
    job_get_available_after,
    job_get_available_counted,
)
from millhand.testing.probe import Probe
from proxy import Direction, proxied

BEGIN = datetime(2026, 11, 25, 12, tzinfo=UTC)
NUM_JOBS = 5
INSERT = """
INSERT INTO river_job (kind, args, max_attempts)
SELECT 'act', jsonb_build_object('what', n::text), 25 FROM generate_series(1, $1::int) AS n
"""


@pytest.mark.slow
async def test_jobs_of_a_fetch_whose_answer_was_lost_are_worked(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """They are marked running, found by the client's id, and worked once."""
    worked: list[str] = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        worked.append(job.args.what)

    settings = {"fetch_poll_interval": timedelta(seconds=60), "leader_election": True}
    async with (
        proxied(harness.url) as proxy,
        harness.client(workers, database=proxy.url, **settings) as client,
    ):
        before = await harness.work(client, Act("before"))
        with client.subscribe() as events, caplog.at_level(logging.WARNING, "millhand.engine.producer"):
            [producer] = client._engine.queues.producers.values()
            await _until_all_know_the_fetch(client)
            await _until_no_fetch(harness, producer)
            proxy.stop_up([Direction.TO_CLIENT])
            await harness.driver.pool.fetch(INSERT, [NUM_JOBS])
            producer.request_fetch()
            await _until_running(harness)
            proxy.cut()
            proxy.restore()
            emitted = [(await harness.next(events)).kind for _ in range(NUM_JOBS)]

    rows = await harness.rows()
    assert before.kind is EventKind.JOB_COMPLETED
    assert emitted == [EventKind.JOB_COMPLETED] * NUM_JOBS
    assert sorted(worked) == ["1", "2", "3", "4", "5", "before"]
    assert {(row.state, row.attempt) for row in rows} == {(JobState.COMPLETED, 1)}
    told_of_fetches = [record.msg for record in caplog.records if record.name.endswith(".producer")]
    assert told_of_fetches == ["lost fetch found"]


@pytest.mark.slow
async def test_jobs_of_a_fetch_that_arrives_late_are_worked(
    harness: ClientHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel sends the lost statement again after the client reconnected and has searched twice."""
    worked: list[str] = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        worked.append(job.args.what)

    settings = {"fetch_poll_interval": timedelta(seconds=60), "leader_election": True}
    async with (
        proxied(harness.url) as proxy,
        harness.client(workers, database=proxy.url, **settings) as client,
    ):
        await harness.work(client, Act("before"))
        with client.subscribe() as events, caplog.at_level(logging.WARNING, "millhand.engine.producer"):
            [producer] = client._engine.queues.producers.values()
            await _until_all_know_the_fetch(client)
            await _until_no_fetch(harness, producer)
            proxy.hold()
            probe = Probe(producer)
            producer.request_fetch()
            for _ in range(2):
                await probe.wait("fetched", timeout_seconds=3 * GENEROUS)
            producer.is_paused = True  # so that no other fetch takes the jobs first
            await harness.driver.pool.fetch(INSERT, [NUM_JOBS])
            proxy.restore()
            await _until_running(harness)
            producer.is_paused = False
            producer.request_fetch()
            emitted = [(await harness.next(events)).kind for _ in range(NUM_JOBS)]

    rows = await harness.rows()
    assert emitted == [EventKind.JOB_COMPLETED] * NUM_JOBS
    assert sorted(worked) == ["1", "2", "3", "4", "5", "before"]
    assert {(row.state, row.attempt) for row in rows} == {(JobState.COMPLETED, 1)}
    told_of_fetches = [record.msg for record in caplog.records if record.name.endswith(".producer")]
    # The timeouts are no outage while a connection that is opened meanwhile answers.
    assert [told for told in told_of_fetches if told != "fetch failed"] == ["lost fetch found"]


async def _until_all_know_the_fetch(client: Client) -> None:
    """
    Return when each connection of a full pool has prepared the fetch, which else needs an answer first.

    The producer counts what a fetch reads if earlier ones were slow, as beside the dead rows of other tests.
    """
    me = ClientId("nobody")
    fetch_all = job_get_available(queue="nobody", limit=1, client_id=me)
    fetch_after = job_get_available_after(START, queue="nobody", limit=1, client_id=me)
    for fetch in (fetch_all, job_get_available_counted(fetch_all), fetch_after):
        await asyncio.gather(*(client._driver.pool.fetch("SELECT pg_sleep(0.1)") for _ in range(10)))
        await asyncio.gather(*(client._driver.pool.run(fetch) for _ in range(10)))


async def _until_no_fetch(harness: ClientHarness, producer: Producer) -> None:
    """Return when no fetch is in flight: one sent before the jobs were inserted would take none."""
    while producer._cancelled_while_fetching is not None:
        await harness.driver.pool.fetch("SELECT 1")


async def _until_running(harness: ClientHarness) -> None:
    sql = "SELECT count(*) AS num FROM river_job WHERE state = 'running'"
    async with asyncio.timeout(GENEROUS):
        while (await harness.driver.pool.fetch(sql))[0]["num"] < NUM_JOBS:
            pass


@dataclass(frozen=True)
class Lost:
    """A fetch was lost at 100 s, after an answered one that brought job 1."""

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
    """Return a job that was fetched so many seconds after the beginning."""
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


def test_search_covers_fetches_after_the_last_answer(lost: Lost) -> None:
    """Jobs of an answered fetch were fetched no later than it; before the first answer the search covers everything."""
    assert LostFetchSearch(BEGIN).after == BEGIN
    assert lost.fetches.after == BEGIN + timedelta(seconds=1)


def test_search_is_repeated_while_the_statement_may_arrive(lost: Lost) -> None:
    """At once and every ten seconds, until the kernel stops sending."""
    last, n = 100.0 + RESENT_SECONDS, round(RESENT_SECONDS / LATE_SECONDS)

    found = [lost.look(100.0 + LATE_SECONDS * look) for look in range(n)]

    assert found == [[]] * n
    assert (lost.fetches.seconds_left(last - 1), lost.fetches.is_due(last - 1)) == (1.0, False)
    assert lost.look(last, row(3, 3)) == [3]
    assert (lost.fetches.seconds_left(last), lost.fetches.is_due(1e9)) == (None, False)


def test_slow_search_is_followed_by_a_longer_pause(lost: Lost) -> None:
    """It takes a fiftieth of the time at most, except for the last one."""
    lost.look(100.0, took=1.0)
    assert lost.fetches.seconds_left(101.0) == 50.0

    lost.look(151.0, took=2.0)
    assert lost.fetches.seconds_left(153.0) == 100.0 + RESENT_SECONDS - 153.0


def test_late_search_is_the_last_one(lost: Lost) -> None:
    """After a paused queue one search is enough."""
    assert lost.look(1e6, row(3, 3)) == [3]
    assert not lost.fetches.is_due(1e9)


def test_search_forgets_jobs_that_ended(lost: Lost) -> None:
    """A job that ended here is never marked with the same time of fetch again."""
    lost.look(100.0)
    lost.fetches.record_answered([row(id, 4) for id in range(1_000, 2_000)])

    assert lost.look(110.0, row(1_500, 4)) == []
    assert lost.fetches._known == {(JobId(1_500), BEGIN + timedelta(seconds=4))}
    assert lost.look(120.0, row(1_500, 4), row(3, 3)) == [3]


def test_search_leaves_out_jobs_of_later_fetches(lost: Lost) -> None:
    """A job that started here since, and may have ended unwritten, does not start again."""
    lost.look(100.0)
    lost.fetches.record_answered([row(4, 4)])

    assert lost.look(100.0 + LATE_SECONDS, row(3, 3), row(4, 4)) == [3]


def test_search_finds_a_job_that_was_fetched_again(lost: Lost) -> None:
    """A job that came, failed, and was marked again by a lost fetch is found."""
    lost.look(100.0)
    lost.fetches.record_answered([row(4, 4)])
    lost.fetches.record_failed(ConnectionLost("job_get_available", "gone"), 105.0)

    assert lost.look(105.0, row(4, 5)) == [4]
    assert lost.look(105.0 + LATE_SECONDS, row(4, 5)) == []


def test_second_loss_searches_as_far_back_as_the_first(lost: Lost) -> None:
    """While the first search lasts, its jobs may still appear."""
    lost.look(100.0)
    lost.fetches.record_answered([row(5, 5)])
    lost.fetches.record_failed(OperationTimeout("job_get_available", 10.0), 105.0)

    assert lost.fetches.after == BEGIN + timedelta(seconds=1)
    assert lost.look(105.0, row(3, 3), row(5, 5)) == [3]


def test_loss_after_a_finished_search_starts_at_the_last_answer(lost: Lost) -> None:
    """Jobs known by then are not searched for again."""
    lost.look(100.0, row(2, 2))
    lost.look(100.0 + RESENT_SECONDS)

    lost.fetches.record_failed(ConnectionLost("job_get_available", "gone"), 300.0)

    assert lost.fetches.after == BEGIN + timedelta(seconds=2)


def test_fetch_that_the_database_refused_needs_no_search() -> None:
    """The server rolled the statement back."""
    fetches = LostFetchSearch(BEGIN)

    fetches.record_failed(DriverError("job_get_available", "deadlock", retryable=True), 100.0)

    assert not fetches.is_due(1e9)
