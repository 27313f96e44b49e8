"""Cleaners delete old finalized jobs and unused queues, and nothing else."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest

from factory import NOW, insert_job, qualified
from millhand.capabilities import CAPABILITIES
from millhand.core.config import Config
from millhand.core.job import FINALIZED_STATES, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.maintenance.batch import BatchSize
from millhand.engine.maintenance.cleaners import JobCleaner, QueueCleaner
from millhand.engine.services import keepers_of
from millhand.engine.store.queue import queue_create_or_set_updated_at, queue_list, queue_pause
from millhand.flows.store import NewTask, flow_insert, flow_task_insert_many
from millhand.testing import ManualClock, Probe

DAY = timedelta(hours=24)
MOMENT = timedelta(microseconds=1)


def job_cleaner(pool: Executor, *, num_rows: int = 10_000, **retention: Any) -> JobCleaner:
    clock = ManualClock(NOW)
    defaults = {"cancelled_retention": DAY, "completed_retention": DAY, "discarded_retention": 7 * DAY}
    keepers = keepers_of(CAPABILITIES, Config(clock=clock))
    made = JobCleaner(
        pool,
        clock=clock,
        batch_size=BatchSize(clock, num_rows=num_rows),
        keepers=keepers,
        **{**defaults, **retention},
    )
    made._pause_seconds = (0.0, 0.0)
    return made


async def left(tx: Executor) -> list[int]:
    rows = await tx.fetch(qualified("SELECT id FROM /* schema */river_job ORDER BY id", tx))
    return [row["id"] for row in rows]


async def test_job_cleaner_deletes_jobs_older_than_their_states_retention(tx: Executor) -> None:
    """Each state has its own retention, and a job at its exact end stays."""
    kept = []
    for state, retention in {"cancelled": DAY, "completed": DAY, "discarded": 7 * DAY}.items():
        kept.append(await insert_job(tx, JobState(state), finalized_at=NOW - retention))
        await insert_job(tx, JobState(state), finalized_at=NOW - retention - MOMENT)

    await job_cleaner(tx).run_once()

    assert await left(tx) == [job.id for job in kept]


@pytest.mark.parametrize("state", sorted(FINALIZED_STATES))
async def test_job_cleaner_keeps_tasks_of_flows_that_run_or_can_be_retried(
    tx: Executor, state: JobState
) -> None:
    """
    A retry runs them again or reads their outputs.

    Once the flow has completed, or its rows are gone, they are deleted; so is a job of River Pro's workflows.
    """
    old = NOW - 30 * DAY
    task, pro = [
        await insert_job(tx, state, finalized_at=old, metadata=f'{{"workflow_id": "{id}"}}')
        for id in ("1", "01HZX3")
    ]
    await tx.run(flow_task_insert_many(1, [NewTask(task.id, None, None, [])]))
    await tx.run(flow_insert(1, "runs", 2, {}))
    found = []
    for change in (
        "UPDATE /* schema */millhand_flow SET num_open = 2",
        "UPDATE /* schema */millhand_flow SET ended_at = now(), num_failed = 1",
        "UPDATE /* schema */millhand_flow SET num_failed = 0, cancelled_at = now()",
        "UPDATE /* schema */millhand_flow SET cancelled_at = NULL",
    ):
        await tx.fetch(qualified(change, tx))
        await job_cleaner(tx).run_once()
        found.append(await left(tx))

    assert pro.id not in found[0]
    assert found == [[task.id], [task.id], [task.id], []]


async def test_job_cleaner_never_deletes_a_job_that_is_not_finalized(tx: Executor) -> None:
    """A job that is not finalized stays, however old it is."""
    old = NOW - 1000 * DAY
    jobs = [
        await insert_job(tx, state, created_at=old, scheduled_at=old, attempted_at=old)
        for state in JobState
        if state not in FINALIZED_STATES
    ]

    await job_cleaner(tx).run_once()

    assert await left(tx) == [job.id for job in jobs]


@pytest.mark.slow
@pytest.mark.parametrize("state", sorted(FINALIZED_STATES))
async def test_job_cleaner_keeps_a_state_without_retention_for_ever(tx: Executor, state: JobState) -> None:
    """None keeps jobs of that state."""
    jobs = {each: await insert_job(tx, each, finalized_at=NOW - 1000 * DAY) for each in FINALIZED_STATES}

    await job_cleaner(tx, **{f"{state}_retention": None}).run_once()

    assert await left(tx) == [jobs[state].id]


async def test_job_cleaner_makes_no_statement_when_everything_is_kept(tx: Executor) -> None:
    """Without any retention it makes no statement."""
    job = await insert_job(tx, JobState.COMPLETED, finalized_at=NOW - 1000 * DAY)
    nothing = dict.fromkeys(("cancelled_retention", "completed_retention", "discarded_retention"))
    cleaner = job_cleaner(tx, **nothing)
    probe = Probe(cleaner)

    await cleaner.run_once()

    assert (await left(tx), probe.num("batch")) == ([job.id], 0)


async def test_job_cleaner_works_off_a_backlog_batch_by_batch(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """One pass deletes all old jobs, and the log counts them."""
    caplog.set_level(logging.DEBUG, "millhand.engine.maintenance")
    for state in (
        JobState.COMPLETED,
        JobState.CANCELLED,
        JobState.COMPLETED,
        JobState.CANCELLED,
        JobState.COMPLETED,
    ):
        await insert_job(tx, state, finalized_at=NOW - 2 * DAY)

    await job_cleaner(tx, num_rows=2).run_once()

    assert await left(tx) == []
    assert [(record.msg, record.num_jobs) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("jobs deleted", 2),
        ("jobs deleted", 2),
        ("jobs deleted", 1),
    ]


async def test_queue_cleaner_deletes_queues_without_an_update_for_a_day(
    tx: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """Worked queues stay; others are deleted, paused or not, and logged by name."""
    caplog.set_level(logging.INFO, "millhand.engine.maintenance")
    ages = {"worked": DAY, "forgotten": DAY + MOMENT, "paused": 10 * DAY}
    for name, age in ages.items():
        await tx.run(queue_create_or_set_updated_at(name, now=NOW - age))
    await tx.run(queue_pause("paused", now=NOW - 9 * DAY))
    clock = ManualClock(NOW)
    cleaner = QueueCleaner(tx, clock, BatchSize(clock, num_rows=1))
    cleaner._pause_seconds = (0.0, 0.0)

    await cleaner.run_once()

    assert [queue.name for queue in await tx.run(queue_list())] == ["worked"]
    assert [(record.msg, record.queue) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("queue deleted", "forgotten"),
        ("queue deleted", "paused"),
    ]
