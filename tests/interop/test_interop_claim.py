"""Cancels that arrive while a client fetches the job, in both languages."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language
from river_program import GENEROUS_SECONDS

from held_driver import HeldDriver
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.event import EventKind
from millhand.core.worker import Workers
from millhand.core.worker_job import Job

CANCELLED = "JobCancelError: job cancelled remotely"


@pytest.mark.parametrize("commander", LANGUAGES)
async def test_cancel_reaches_a_job_that_is_just_fetched(harness: Harness, commander: Language) -> None:
    """26a: claim_time_cancellation; if a cancel arrives while its job is fetched, the worker is never called."""
    called = []
    workers = Workers()

    @workers.add(kind="act")
    async def act(job: Job[dict[str, Any]]) -> None:
        called.append(job.id)

    driver = HeldDriver(harness.url, harness.schema)
    control = harness.control(commander)
    id = await control.insert()
    config = Config(
        heartbeat_interval=None, queues={"default": 1, "other": 1}, schema=harness.schema, workers=workers
    )
    async with Client(driver, config) as client:
        with client.subscribe(EventKind.QUEUE_PAUSED) as pauses:
            await asyncio.wait_for(driver.held_pool.is_held.wait(), GENEROUS_SECONDS)
            while_it_is_fetched = await harness.row(id)
            await control.cancel(id)
            # Notifications arrive in order: after this one, the cancel has arrived too.
            await control.pause("other")
            await asyncio.wait_for(anext(pauses), GENEROUS_SECONDS)
            driver.held_pool.let_go.set()
            row = await harness.until_state(id, "cancelled")

    assert while_it_is_fetched["state"] == "running"
    assert called == []
    assert [one["error"] for one in row["errors"]] == [CANCELLED]


@pytest.mark.parametrize(("commander", "worker"), BOTH_WAYS)
async def test_cancel_reaches_the_attempt_after_a_snooze(
    harness: Harness, commander: Language, worker: Language
) -> None:
    """
    26a: refetched_attempt_cancellation.

    A cancel stops the new attempt of a job that snoozed and was fetched again.
    """
    async with harness.working(worker):
        id = await harness.control(worker).insert(["snooze_times", 1, 0], ["hold"])
        await harness.events.wait("job_snoozed", job=id)
        await harness.events.wait("held", job=id)
        await harness.control(commander).cancel(id)
        await harness.events.wait("job_cancelled", job=id)

    row = await harness.row(id)
    assert (row["state"], row["attempt"], row["metadata"]["snoozes"]) == ("cancelled", 1, 1)
    assert [one["error"] for one in row["errors"]] == [CANCELLED]
