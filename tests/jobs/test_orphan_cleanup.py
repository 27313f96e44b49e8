"""The job of the orphan cleanup. tests/orphans has the claims about what a run removes and keeps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from factory import GENEROUS_SECONDS
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.event import Event, EventKind
from millhand.core.insert_opts import InsertOpts
from millhand.core.worker import Workers
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.jobs import OrphanCleanup, add_orphan_cleanup
from millhand.orphans import Mode, OrphansConfig, ReferenceSource
from millhand.storage import ObjectStore, open_store

LOGGER = "millhand.jobs.orphan_cleanup"
NO_GRACE = timedelta(0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ObjectStore]:
    """A directory with one object that a row names, and one orphan."""
    store = open_store(str(tmp_path / "bucket"), create=True)
    await store.put("live.bin", b"live")
    await store.put("orphan.bin", b"orphan")
    yield store
    await store.aclose()


@pytest.fixture
async def uploads(schema_driver: AsyncpgDriver) -> AsyncIterator[ReferenceSource]:
    """A table whose one row names `live.bin`."""
    table = f"{schema_driver.schema}.uploads"
    script = (
        f"CREATE TABLE {table} (id int PRIMARY KEY, key text); INSERT INTO {table} VALUES (1, 'live.bin')"
    )
    await schema_driver.pool.execute_script(script)
    yield ReferenceSource(name="uploads", table=table)
    await schema_driver.pool.execute_script(f"DROP TABLE {table}")


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, LOGGER)
    return caplog


def logged(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in log.records if record.name == LOGGER]


async def work_once(driver: AsyncpgDriver, store: ObjectStore, config: OrphansConfig) -> Event:
    """Run a client with the cleanup until it was worked once."""
    workers = Workers()
    cleanup = add_orphan_cleanup(workers, driver.pool, store, config)
    settings = Config(periodic_jobs=[cleanup], queues={"default": 1}, schema=driver.schema, workers=workers)
    client = Client(driver, settings)
    try:
        with client.subscribe(EventKind.JOB_COMPLETED, EventKind.JOB_FAILED, EventKind.JOB_SNOOZED) as events:
            async with client, asyncio.timeout(GENEROUS_SECONDS):
                return await anext(events)
    finally:
        await driver.open()


@pytest.mark.slow
async def test_orphan_cleanup_logs_what_it_found(
    schema_driver: AsyncpgDriver, store: ObjectStore, uploads: ReferenceSource, log: pytest.LogCaptureFixture
) -> None:
    """A run logs one line with its figures, and the same figures are the output of the job."""
    event = await work_once(schema_driver, store, OrphansConfig(sources=(uploads,)))

    (record,) = logged(log)
    names = (
        "mode",
        "objects",
        "rows",
        "orphan_objects",
        "abandoned_rows",
        "missing",
        "deleted",
        "not_removed",
    )
    found = {name: vars(record)[name] for name in names}
    assert (record.levelname, record.msg) == ("INFO", "orphan cleanup completed")
    assert event.kind is EventKind.JOB_COMPLETED
    assert event.job is not None
    assert found == {name: event.job.output[name] for name in names}
    assert (found["mode"], found["objects"], found["rows"], found["deleted"]) == ("report", 2, 1, 0)
    assert vars(record)["seconds"] >= 0


@pytest.mark.slow
async def test_orphan_cleanup_without_sources_logs_how_to_declare_one(
    schema_driver: AsyncpgDriver, store: ObjectStore, log: pytest.LogCaptureFixture
) -> None:
    """Without sources nothing is scanned, and the log line has a reason that says how to declare one."""
    event = await work_once(schema_driver, store, OrphansConfig())

    (record,) = logged(log)
    assert event.kind is EventKind.JOB_COMPLETED
    assert (record.msg, vars(record)["objects"], vars(record)["deleted"]) == (
        "orphan cleanup completed",
        0,
        0,
    )
    assert vars(record)["reason"] == (
        "no sources are declared; declare the tables that reference objects in [[orphans.sources]] of millhand.toml"
    )


@pytest.mark.slow
async def test_orphan_cleanup_warns_when_a_guard_aborts_the_run(
    schema_driver: AsyncpgDriver, store: ObjectStore, uploads: ReferenceSource, log: pytest.LogCaptureFixture
) -> None:
    """A run that a guard aborts logs a warning with the reason, and removes nothing."""
    config = OrphansConfig(
        allow_short_grace=True, grace=NO_GRACE, max_share=0.0, mode=Mode.DELETE, sources=(uploads,)
    )

    for _ in range(3):
        await work_once(schema_driver, store, config)

    record = logged(log)[-1]
    assert (record.levelname, record.msg) == ("WARNING", "orphan cleanup aborted")
    assert "max_share" in vars(record)["reason"]
    assert await store.get("orphan.bin") == b"orphan"


@pytest.mark.slow
async def test_orphan_cleanup_that_fails_is_tried_again(
    schema_driver: AsyncpgDriver, store: ObjectStore, log: pytest.LogCaptureFixture
) -> None:
    """A source that cannot be read fails the attempt, and nothing is removed."""
    broken = ReferenceSource(name="uploads", table="no_such_table")

    event = await work_once(schema_driver, store, OrphansConfig(sources=(broken,)))

    assert event.kind is EventKind.JOB_FAILED
    assert event.job is not None
    assert "no_such_table" in event.job.errors[-1].error
    assert logged(log) == []


@pytest.mark.slow
async def test_orphan_cleanup_snoozes_while_another_run_is_in_progress(
    schema_driver: AsyncpgDriver, store: ObjectStore, uploads: ReferenceSource, log: pytest.LogCaptureFixture
) -> None:
    """While another run holds the bucket, or its lease after a kill, the job logs that and snoozes for a minute."""
    await schema_driver.pool.fetch(
        f"INSERT INTO {schema_driver.schema}.millhand_orphan_run "
        "(bucket, mode, fingerprint, started_at, heartbeat_at) VALUES ($1, 'report', '', now(), now())",
        [store.url],
    )

    event = await work_once(schema_driver, store, OrphansConfig(sources=(uploads,)))

    assert event.kind is EventKind.JOB_SNOOZED
    assert [(record.msg, vars(record)["reason"]) for record in logged(log)] == [
        ("orphan cleanup skipped", "another run is in progress")
    ]


async def test_orphan_cleanups_do_not_pile_up(schema_driver: AsyncpgDriver, store: ObjectStore) -> None:
    """While a cleanup job waits or runs, no second one is inserted in its interval; the next interval has its own."""
    cleanup = add_orphan_cleanup(
        Workers(), schema_driver.pool, store, OrphansConfig(), interval=timedelta(hours=1)
    )
    opts = cleanup.opts
    assert opts is not None

    async with Client(
        schema_driver, Config(schema=schema_driver.schema, skip_unknown_job_check=True)
    ) as client:
        first = await client.insert(OrphanCleanup(), opts)
        second = await client.insert(OrphanCleanup(), opts)
        later = InsertOpts(
            queue=opts.queue, unique=opts.unique, scheduled_at=first.job.created_at + timedelta(hours=1)
        )
        third = await client.insert(OrphanCleanup(), later)
    await schema_driver.open()

    skipped = [result.unique_skipped_as_duplicate for result in (first, second, third)]
    assert skipped == [False, True, False]
    assert (cleanup.id, cleanup.run_on_start, opts.max_attempts) == ("orphan_cleanup", True, 3)
