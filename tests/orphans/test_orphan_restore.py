"""The job that restores removed objects. tests/orphans/test_restore.py has the claims about what a restore brings back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from world import DAY, PLAIN, World

from factory import GENEROUS_SECONDS, get_job
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.event import EventKind
from millhand.core.job import JobRow, JobState
from millhand.core.worker import Workers
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.jobs import OrphanRestore, add_orphan_cleanup
from millhand.storage import open_store

pytestmark = pytest.mark.slow  # clients work the jobs
HOUR = timedelta(hours=1)
LOGGER = "millhand.jobs.orphan_restore"


@pytest.fixture(params=["directory", "S3"])
async def removed(world: World, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """In either kind of store: a live pair, and three objects that run 2 moved into quarantine, one with its row."""
    if request.param == "S3":
        address = request.getfixturevalue("s3_endpoint")
        store = open_store(f"s3://{PLAIN}/{world.schema}_{request.node.name[-40:-4]}?endpoint_url={address}")
        world = replace(world, store=store)
    await world.pair("live.bin")
    for key in ("up/a.bin", "up/row.bin", "b.bin"):
        await world.put(key)
    await world.row("up/row.bin", state="pending", created_at=world.now - 30 * DAY)
    await world.runs(2 * HOUR, 7 * DAY)
    assert (await world.keys(), await world.row_keys()) == (["live.bin"], ["live.bin"])
    yield world
    await world.store.aclose()


async def worked(
    driver: AsyncpgDriver, world: World, *asked: OrphanRestore, runs_beside: bool = False
) -> list[JobRow]:
    """Insert restores, and return their rows once each was worked; a run of the cleanup may begin with them."""
    workers = Workers()
    add_orphan_cleanup(workers, driver.pool, world.store, world.config)
    settings = Config(queues={"default": 4}, schema=driver.schema, workers=workers, heartbeat_interval=None)
    client = Client(driver, settings)
    ended = (EventKind.JOB_COMPLETED, EventKind.JOB_CANCELLED, EventKind.JOB_FAILED)
    try:
        with client.subscribe(*ended) as events:
            async with client, asyncio.timeout(GENEROUS_SECONDS):
                inserted = await client.insert_many(asked)
                if runs_beside:
                    report = await world.run()
                    assert report.state == "completed", report
                for _ in asked:
                    await anext(events)
    finally:
        await driver.open()  # the client closed it
    return [await get_job(driver.pool, one.job.id) for one in inserted]


async def test_restore_brings_back_run_prefix_and_key(
    schema_driver: AsyncpgDriver, removed: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Restores that overlap and run at once bring each object and row back once; the output of each has its counts."""
    caplog.set_level(logging.INFO, LOGGER)
    url = removed.store.url
    asked = [
        OrphanRestore(store=url, run=2),
        OrphanRestore(store=url, prefix="up/"),
        OrphanRestore(store=url, key="up/row.bin"),
        OrphanRestore(store=url, key="b.bin"),
    ]

    rows = await worked(schema_driver, removed, *asked)

    assert [(row.state, row.errors) for row in rows] == [(JobState.COMPLETED, ())] * 4
    assert await removed.keys() == ["b.bin", "live.bin", "up/a.bin", "up/row.bin"]
    assert await removed.row_keys() == ["live.bin", "up/row.bin"]
    assert await removed.store.get("up/row.bin") == b"up/row.bin"
    outputs: list[Any] = [row.output for row in rows]
    assert (sum(one["rows"] for one in outputs), [one["failed"] for one in outputs]) == (1, [[]] * 4)
    assert [record.msg for record in caplog.records if record.name == LOGGER] == ["orphans restored"] * 4


async def test_restore_runs_beside_a_cleanup(schema_driver: AsyncpgDriver, removed: World) -> None:
    """While a run destroys what was in quarantine for long, a restore brings back all of a key, or says that it is gone."""
    removed.now += 8 * DAY

    asked = OrphanRestore(store=removed.store.url, key="up/row.bin")
    [row] = await worked(schema_driver, removed, asked, runs_beside=True)

    assert await removed.store.get("live.bin") == b"live.bin"
    if row.state is JobState.COMPLETED:
        assert await removed.store.get("up/row.bin") == b"up/row.bin"
        assert await removed.row_keys() == ["live.bin", "up/row.bin"]
    else:
        assert (row.state, "deleted" in row.errors[-1].error) == (JobState.CANCELLED, True)


@pytest.mark.parametrize(
    ("changes", "state", "error"),
    [
        (
            {"key": "live.bin"},
            JobState.CANCELLED,
            "nothing that was removed matches, so nothing was restored",
        ),
        ({"key": "b.bin", "prefix": "up/"}, JobState.RETRYABLE, "restore must get one run, prefix or key"),
        (
            {"key": "b.bin", "store": "s3://other/"},
            JobState.RETRYABLE,
            "store must be the one of this worker",
        ),
    ],
)
async def test_restore_that_is_impossible_says_why(
    schema_driver: AsyncpgDriver, removed: World, changes: dict[str, Any], state: JobState, error: str
) -> None:
    """A selection without removals, of two things, or of another store restores nothing, and the error says why."""
    asked = OrphanRestore(**{"store": removed.store.url, **changes})

    [row] = await worked(schema_driver, removed, asked)

    assert row.state in {state, JobState.AVAILABLE} if state is JobState.RETRYABLE else {state}
    assert error in row.errors[-1].error
    assert await removed.keys() == ["live.bin"]
