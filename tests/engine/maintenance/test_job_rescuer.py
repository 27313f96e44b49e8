"""Rescuing jobs whose worker died or never returned."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest

from factory import GENEROUS_SECONDS, NOW, get_job, golden, insert_job, qualified
from held_driver import HeldPool
from millhand.core.job import JobRow, JobState
from millhand.core.metrics.definitions import JOBS_FINISHED
from millhand.core.retry import ConstantRetryPolicy, DefaultRetryPolicy
from millhand.core.worker import NO_TIMEOUT, Workers
from millhand.core.worker_job import Job
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.maintenance.batch import BatchSize
from millhand.engine.maintenance.job_rescuer import JobRescuer
from millhand.engine.store.job import job_cancel
from millhand.testing import ManualClock
from refused_rows import refused

HOUR = timedelta(hours=1)
RESCUED_TEXT = "Stuck job rescued by JobRescuer"
FIRST_ERROR = '{"at": "2024-05-01T10:34:56.789Z", "attempt": 1, "error": "boom", "trace": ""}'


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"
    do: str


@dataclass(frozen=True)
class Patient:
    kind: ClassVar[str] = "patient"


@dataclass(frozen=True)
class Endless:
    kind: ClassVar[str] = "endless"


class OwnRetry:
    """The retry time of River's recorded run: ten minutes for one job, the default for the others."""

    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        if job.args["do"] == "fail, own retry in 10 min":
            return now + timedelta(minutes=10)
        return DefaultRetryPolicy().next_retry_at(job, now=now)


def workers() -> Workers:
    workers = Workers()

    @workers.add(retry=OwnRetry())
    async def act(job: Job[Act]) -> None: ...

    @workers.add(timeout=3 * HOUR)
    async def patient(job: Job[Patient]) -> None: ...

    @workers.add(timeout=NO_TIMEOUT)
    async def endless(job: Job[Endless]) -> None: ...

    return workers


def rescuer(pool: Executor, *, num_rows: int = 10_000, **settings: Any) -> JobRescuer:
    clock = ManualClock(NOW)
    defaults = {
        "job_timeout": timedelta(minutes=1),
        "rescue_after": HOUR,
        "retry_policy": DefaultRetryPolicy(),
        "workers": workers(),
    }
    made = JobRescuer(
        pool, clock=clock, batch_size=BatchSize(clock, num_rows=num_rows), **{**defaults, **settings}
    )
    made._pause_seconds = (0.0, 0.0)
    return made


async def stuck(tx: Executor, *, hours: float = 2, **columns: Any) -> JobRow:
    """Insert a job that has been running for some hours, as in River's recorded run."""
    columns = {
        "args": '{"do": "complete"}',
        "attempt": 2,
        "attempted_at": NOW - hours * HOUR,
        "errors": [FIRST_ERROR],
        "kind": "act",
        **columns,
    }
    return await insert_job(tx, JobState.RUNNING, **columns)


async def test_rescuer_leaves_rows_as_rivers_does(tx: Executor) -> None:
    """Each row of River's recorded run ends as River left it, except that a job of an unknown kind is retried."""
    rows = {
        "attempts left": await stuck(tx),
        "rescued before": await stuck(tx, metadata='{"river:rescue_count": 4}'),
        "rescue count isn't a number": await stuck(tx, metadata='{"river:rescue_count": "x"}'),
        "last attempt": await stuck(tx, attempt=3, max_attempts=3),
        "cancel requested": await stuck(tx, metadata='{"cancel_attempted_at": "2024-05-01T10:34:56.789Z"}'),
        "unknown kind": await stuck(tx, kind="nobody_knows", args="{}"),
        "args don't decode": await stuck(tx, args='{"do": 5}'),
        "worker's own retry time": await stuck(tx, args='{"do": "fail, own retry in 10 min"}'),
        "not stuck yet": await stuck(tx, hours=0.5),
    }

    await rescuer(tx).run_once()

    [photos] = [story["photos"] for story in golden("jobs") if story["scenario"] == "rescued"]
    recorded = {photo["when"]: photo["row"] for photo in photos}
    assert set(recorded) == set(rows)
    for name, before in rows.items():
        row = await get_job(tx, before.id)
        assert facts(row, before) == expected(name, recorded[name]), name


def facts(row: JobRow, before: JobRow) -> dict[str, Any]:
    """Return what is compared of a row: all but the instants, and whether these moved as expected."""
    return {
        "state": row.state.value,
        "attempt": row.attempt,
        "metadata": row.metadata,
        "errors": [(error.attempt, error.error, error.trace) for error in row.errors],
        "is_finalized_now": row.finalized_at == NOW,
        "has_new_schedule": row.scheduled_at != before.scheduled_at,
    }


def expected(name: str, recorded: dict[str, Any]) -> dict[str, Any]:
    columns = recorded["columns"]
    state = "retryable" if name == "unknown kind" else columns["state"]
    return {
        "state": state,
        "attempt": int(columns["attempt"]),
        "metadata": recorded["metadata"],
        "errors": [(error["attempt"], error["error"], error["trace"]) for error in recorded["errors"]],
        "is_finalized_now": state in ("cancelled", "discarded"),
        "has_new_schedule": state == "retryable",
    }


async def test_rescuer_schedules_the_next_attempt_by_stored_errors(tx: Executor) -> None:
    """The default policy counts the errors before the rescue: one here, so about sixteen seconds."""
    job = await stuck(tx)

    await rescuer(tx).run_once()

    row = await get_job(tx, job.id)
    assert 14.4 <= (row.scheduled_at - NOW).total_seconds() <= 17.6
    assert row.errors[-1].at == NOW


@pytest.mark.parametrize(
    ("kind", "hours", "job_timeout", "is_rescued"),
    [
        ("act", 2, timedelta(minutes=1), True),
        ("act", 2, 3 * HOUR, False),
        ("act", 2, None, False),
        ("patient", 2, timedelta(minutes=1), False),
        ("patient", 3.5, timedelta(minutes=1), True),
        ("endless", 1000, timedelta(minutes=1), False),
        ("nobody_knows", 2, None, True),
    ],
)
async def test_rescuer_leaves_a_job_whose_worker_may_still_run(
    tx: Executor, kind: str, hours: float, job_timeout: timedelta | None, *, is_rescued: bool
) -> None:
    """A worker has its own timeout, or else the client's; without either its jobs are left alone."""
    job = await stuck(tx, kind=kind, hours=hours)

    await rescuer(tx, job_timeout=job_timeout).run_once()

    assert (await get_job(tx, job.id)).state is (JobState.RETRYABLE if is_rescued else JobState.RUNNING)


async def test_rescuer_discards_an_unknown_kind_only_without_attempts_left(tx: Executor) -> None:
    """A job of an unknown kind gets all of its attempts, and no more."""
    left = await stuck(tx, kind="nobody_knows", attempt=24)
    none_left = await stuck(tx, kind="nobody_knows", attempt=25)

    await rescuer(tx, retry_policy=ConstantRetryPolicy(HOUR)).run_once()

    left, none_left = await get_job(tx, left.id), await get_job(tx, none_left.id)
    assert (left.state, left.scheduled_at) == (JobState.RETRYABLE, NOW + HOUR)
    assert (none_left.state, none_left.finalized_at) == (JobState.DISCARDED, NOW)


@pytest.mark.parametrize(
    ("metadata", "state"),
    [
        ('{"cancel_attempted_at": null}', JobState.RETRYABLE),
        ('{"cancel_attempted_at": "0001-01-01T00:00:00Z"}', JobState.RETRYABLE),
        ('{"cancel_attempted_at": "yes"}', JobState.CANCELLED),
        ('{"cancel_attempted_at": 1714559696}', JobState.CANCELLED),
        ('{"cancel_attempted_at": {}}', JobState.CANCELLED),
        ('["cancel_attempted_at"]', JobState.RETRYABLE),
        ("[]", JobState.RETRYABLE),
        ('"text"', JobState.RETRYABLE),
        ("null", JobState.RETRYABLE),
        ("17", JobState.RETRYABLE),
    ],
)
async def test_rescuer_accepts_malformed_metadata(tx: Executor, metadata: str, state: JobState) -> None:
    """Malformed metadata prevents neither its own job's rescue nor another's. River's leader fails here."""
    malformed = await stuck(tx, metadata=metadata)
    other = await stuck(tx)

    await rescuer(tx).run_once()

    assert (await get_job(tx, malformed.id)).state is state
    assert (await get_job(tx, other.id)).state is JobState.RETRYABLE


async def test_rescuer_accepts_malformed_errors(tx: Executor) -> None:
    """A stored error that cannot be read does not prevent the rescue of its job."""
    job = await stuck(tx, errors=["17", '{"at": "yesterday"}'])

    await rescuer(tx).run_once()

    row = await get_job(tx, job.id)
    assert (row.state, len(row.errors), row.errors[-1].error) == (JobState.RETRYABLE, 3, RESCUED_TEXT)


async def test_rescuer_sees_past_a_page_of_jobs_that_it_leaves_alone(tx: Executor) -> None:
    """
    maintenance_rescuer_full_batch_of_unexpired_jobs.

    A full batch of jobs that are left alone does not hide a stuck one behind them.
    """
    for _ in range(5):
        await stuck(tx, kind="endless")
    behind = await stuck(tx)

    await rescuer(tx, num_rows=2).run_once()

    assert (await get_job(tx, behind.id)).state is JobState.RETRYABLE


async def test_rescuer_begins_each_pass_at_the_first_job(tx: Executor) -> None:
    """A job that one pass left alone is checked again by the next."""
    job = await stuck(tx, kind="patient")
    service = rescuer(tx)

    await service.run_once()
    service._clock.advance(2 * HOUR)  # type: ignore[attr-defined]
    await service.run_once()

    assert (await get_job(tx, job.id)).state is JobState.RETRYABLE


async def test_rescuer_leaves_a_job_that_moved_since_it_was_chosen(schema_driver: AsyncpgDriver) -> None:
    """
    maintenance_rescuer_stale_selection.

    A job that was completed, fetched again or cancelled between SELECT and UPDATE stays as it is.
    """
    pool = schema_driver.pool
    completed, refetched, cancelled, rescued = [await stuck(pool) for _ in range(4)]

    held = HeldPool(pool, ["job_get_stuck"])
    async with asyncio.timeout(GENEROUS_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(rescuer(held).run_once())  # type: ignore[arg-type]  # an executor, by __getattr__
        await held.is_held.wait()
        await pool.fetch(
            qualified(
                "UPDATE /* schema */river_job SET state = 'completed', finalized_at = now() WHERE id = $1",
                pool,
            ),
            [completed.id],
        )
        await pool.fetch(
            qualified("UPDATE /* schema */river_job SET attempted_at = $2 WHERE id = $1", pool),
            [refetched.id, NOW],
        )
        marked = await pool.run(job_cancel(cancelled.id, now=NOW))
        held.let_go.set()

    rows = [await get_job(pool, job.id) for job in (completed, refetched, cancelled, rescued)]
    running = JobState.RUNNING
    assert [row.state for row in rows] == [JobState.COMPLETED, running, running, JobState.RETRYABLE]
    assert [row.metadata for row in rows[:3]] == [{}, {}, marked.metadata]

    await rescuer(pool).run_once()
    assert (await get_job(pool, cancelled.id)).state is JobState.CANCELLED


async def test_rescuer_logs_each_rescue(tx: Executor, caplog: pytest.LogCaptureFixture) -> None:
    """Each rescue has a log line, with another message for unknown kinds."""
    caplog.set_level(logging.INFO, "millhand.engine.maintenance")
    known = await stuck(tx)
    unknown = await stuck(tx, kind="nobody_knows")

    await rescuer(tx).run_once()

    emitted = [(record.msg, getattr(record, "job_id", None)) for record in caplog.records]
    assert emitted == [
        ("job rescued", known.id),
        ("job of unknown kind rescued", unknown.id),
        ("jobs rescued", None),
    ]
    assert caplog.records[-1].num_jobs == 2  # type: ignore[attr-defined]
    assert caplog.records[0].state == "retryable"  # type: ignore[attr-defined]


async def test_rescuer_logs_and_counts_a_job_that_it_discards(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """A stuck job without attempts left is `job discarded` in the log, and counted as discarded."""
    job = await stuck(tx, attempt=3, max_attempts=3)
    await stuck(tx)
    metrics = ClientMetrics()

    with caplog.at_level(logging.ERROR, "millhand.engine.maintenance"):
        await rescuer(tx, metrics=metrics).run_once()

    finished = {
        point.labels: point.value
        for one in metrics.collect()
        for point in one.points
        if one.metric is JOBS_FINISHED
    }
    assert [(one.msg, one.job_id) for one in caplog.records] == [("job discarded", job.id)]
    assert finished == {("default", "act", "discarded"): 1}


async def test_job_whose_rescue_is_refused_blocks_no_other(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """A user's trigger raises for one job, which is logged and stays; the jobs before and after it are rescued."""
    pool = schema_driver.pool
    jobs = [await stuck(pool) for _ in range(4)]

    with caplog.at_level(logging.ERROR, "millhand.engine.maintenance"):
        async with refused(pool, jobs[1].id):
            await rescuer(pool).run_once()

    states = [(await get_job(pool, job.id)).state for job in jobs]
    assert states == [JobState.RETRYABLE, JobState.RUNNING, JobState.RETRYABLE, JobState.RETRYABLE]
    assert [(one.msg, one.job_id) for one in caplog.records] == [("job not rescued", jobs[1].id)]
