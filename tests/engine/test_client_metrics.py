"""Claims about what a client counts while it works."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any

import asyncpg
import pytest

from client_harness import Act, ClientHarness
from millhand.client import Client
from millhand.core.errors import JobCancel, JobSnooze
from millhand.core.event import EventKind
from millhand.core.insert_opts import InsertOpts, InsertParams, InsertResult, UniqueOpts
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.metrics.definitions import CLIENT_METRICS
from millhand.core.metrics.points import Durations
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.attempt import Attempt
from millhand.engine.client_metrics import BUILT_IN_KINDS, ClientMetrics
from millhand.engine.heartbeat import Heartbeat
from millhand.engine.outage import Outage, OutageDriver
from millhand.engine.store.client import client_ping
from millhand.jobs.orphan_cleanup import OrphanCleanup
from millhand.jobs.orphan_restore import OrphanRestore

AT = datetime(2026, 3, 1, tzinfo=UTC)


def values(metrics: ClientMetrics | Client) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the values by metric and labels; a histogram is the number of its durations."""
    page = metrics.collect() if isinstance(metrics, ClientMetrics) else metrics.read_metrics()
    return {
        one.metric.name.removeprefix("millhand_"): {
            point.labels: point.value.num if isinstance(point.value, Durations) else point.value
            for point in one.points
        }
        for one in page
    }


def attempt(queue: str, kind: str) -> Attempt:
    row = JobRow(
        id=JobId(1), state=JobState.RUNNING, attempt=1, max_attempts=25, attempted_at=AT, created_at=AT, finalized_at=None,
        scheduled_at=AT, priority=1, encoded_args="{}", attempted_by=(), errors=(), kind=kind, metadata={}, queue=queue,
        tags=(), unique_key=None, unique_states=None,
    )  # fmt: skip
    return Attempt(row, queue_wait_seconds=0.5, run_seconds=2.0)


def test_attempts_of_many_queues_and_kinds_have_a_bounded_number_of_labels() -> None:
    """Attempts of a thousand queues and kinds are counted, a hundred of each by name and the others as `_OTHER`."""
    metrics = ClientMetrics()

    metrics.add_completed([attempt(f"q{n}", f"k{n}") for n in range(1_000)], [0.1] * 1_000)

    found = values(metrics)
    assert len(found["job_run_seconds"]) == 101
    assert len(found["jobs_finished_total"]) == 202  # each of them completed, and none discarded
    assert found["jobs_finished_total"]["_OTHER", "_OTHER", "completed"] == 900
    assert found["job_queue_wait_seconds"]["q7",] == 1
    assert found["job_complete_seconds"] == {(): 1_000}


def test_first_discard_of_a_kind_is_an_increase() -> None:
    """The count of discarded jobs of a kind begins at 0 with its first attempt, so that Prometheus sees it increase."""
    metrics = ClientMetrics()

    metrics.add_completed([attempt("q", "pay")], [0.1])
    before = values(metrics)["jobs_finished_total"]
    metrics.add_finished(attempt("q", "pay"), EventKind.JOB_FAILED, JobState.DISCARDED, 0.1)
    after = values(metrics)["jobs_finished_total"]

    assert before == {("q", "pay", "completed"): 1, ("q", "pay", "discarded"): 0}
    assert after == {("q", "pay", "completed"): 1, ("q", "pay", "discarded"): 1}


def test_built_in_kinds_keep_their_labels_beside_many_kinds() -> None:
    """The heartbeat has its own label although a hundred kinds were seen before it, because an alert looks for it."""
    metrics = ClientMetrics()

    metrics.add_completed([attempt("q", f"k{n}") for n in range(200)], [0.1] * 200)
    for kind in BUILT_IN_KINDS:
        metrics.add_completed([attempt("q", kind)], [0.1])

    found = values(metrics)["job_completed_timestamp_seconds"]
    assert {*found} >= {("heartbeat",), ("k99",), ("_OTHER",)}
    assert {*BUILT_IN_KINDS} == {Heartbeat.kind, OrphanCleanup.kind, OrphanRestore.kind}


def test_inserts_never_decrease_while_skipped_jobs_are_counted() -> None:
    """A scrape between any two lines of a count sees no counter fall: Prometheus would take that for a restart."""
    metrics = ClientMetrics()
    seen: list[float] = []
    params = [
        InsertParams(
            kind="k",
            encoded_args="{}",
            max_attempts=1,
            encoded_metadata="{}",
            priority=1,
            queue="q",
            state=JobState.AVAILABLE,
        )
    ] * 3
    results = [InsertResult(attempt("q", "k").row, unique_skipped_as_duplicate=n > 0) for n in range(3)]

    def scrape(frame: FrameType, event: str, argument: object) -> Any:
        seen.append(values(metrics)["jobs_inserted_total"].get(("q", "k"), 0))
        return scrape

    tracer = sys.gettrace()
    sys.settrace(scrape)
    try:
        metrics.add_inserted(params, results, 0.1)
    finally:
        sys.settrace(tracer)

    found = values(metrics)
    assert (seen, seen[0], seen[-1]) == (sorted(seen), 0, 1)
    assert (found["jobs_inserted_total"], found["jobs_skipped_total"]) == ({("q", "k"): 1}, {("q", "k"): 2})


def test_errors_have_a_bounded_number_of_labels() -> None:
    """A hundred pairs of kind and error are counted by name, and the others as one."""
    metrics = ClientMetrics()

    for number in range(300):
        metrics.add_error("mail", f"Error{number}")

    found = values(metrics)["job_errors_total"]
    assert (len(found), found["mail", "Error99"], found["_OTHER", "_OTHER"]) == (101, 1, 200)


@pytest.mark.slow
async def test_client_counts_what_becomes_of_its_jobs(harness: ClientHarness) -> None:
    """Each outcome, error, insert and fetch of a client is counted once, and all its metrics are those that are defined."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        match job.args.what:
            case "fail" | "give up":
                raise ValueError(job.args.what)
            case "cancel":
                raise JobCancel
            case "snooze":
                raise JobSnooze(timedelta(hours=1))

    policy = ConstantRetryPolicy(timedelta(hours=1))
    async with harness.client(workers, leader_election=True, retry_policy=policy) as client:
        with client.subscribe() as events:
            unique = InsertOpts(unique=UniqueOpts(by_args=True))
            await client.insert_many(
                [(Act("fail"), None), (Act("give up"), InsertOpts(max_attempts=1)), (Act("complete"), unique)]
            )
            # Skipped, whether the first one has completed or not.
            await client.insert(Act("complete"), unique)
            await client.insert_many_fast([Act("snooze"), Act("complete"), Act("cancel")])
            for _ in range(6):
                await harness.next(events)
        found = values(client)

    assert found["jobs_finished_total"] == {
        ("default", "act", "completed"): 2,
        ("default", "act", "errored"): 1,
        ("default", "act", "discarded"): 1,
        ("default", "act", "cancelled"): 1,
        ("default", "act", "snoozed"): 1,
    }
    assert found["job_errors_total"] == {("act", "ValueError"): 2}
    assert found["jobs_inserted_total"] == {("default", "act"): 6}
    assert found["jobs_skipped_total"] == {("default", "act"): 1}
    assert found["insert_seconds"] == {(): 3}
    assert found["job_run_seconds"] == {("act",): 6}
    assert found["job_queue_wait_seconds"] == {("default",): 6}
    assert found["jobs_fetched_total"] == {("default",): 6}
    assert found["slots"] == {("default",): 10}
    assert (found["database_up"], found["database_outages_total"]) == ({(): 1}, {(): 0})
    assert {*found} - {*values(client)} >= {
        "slots",
        "jobs_running",
        "info",
        "leader",
    }  # a stopped client only has counts
    assert {*found} <= {metric.name.removeprefix("millhand_") for metric in CLIENT_METRICS}


@pytest.mark.slow
async def test_size_of_the_pool_is_known_for_a_pool_of_ours(harness: ClientHarness) -> None:
    """The gauge has `pool_size` of a client with a URL, and a pool of the application has no point."""
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None: ...

    own = AsyncpgDriver(harness.url, pool_size=3)
    async with harness.client(workers, database=own) as client:
        of_url = values(client)["pool_size"]
    async with asyncpg.create_pool(harness.url) as pool, harness.client(workers, database=pool) as client:
        of_pool = values(client).get("pool_size")

    assert (of_url, of_pool) == ({(): 3}, None)


async def test_statements_that_run_are_counted(driver: AsyncpgDriver) -> None:
    """A statement counts from its begin to its answer, with the wait for a connection."""
    outage = Outage()
    asking = asyncio.ensure_future(OutageDriver(driver, outage).pool.run(client_ping()))
    await asyncio.sleep(0)
    during = outage.num_statements
    await asking

    assert (during, outage.num_statements) == (1, 0)
