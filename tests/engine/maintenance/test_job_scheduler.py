"""Scheduling: jobs become available when due, duplicates are discarded, and no row blocks the others."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import timedelta

import pytest

from factory import GENEROUS_SECONDS, NOW, get_job, golden, insert_job, qualified
from millhand.core.config import Config
from millhand.core.errors import DriverError
from millhand.core.job import JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.engine.inserter import Inserter
from millhand.engine.maintenance.batch import BatchSize
from millhand.engine.maintenance.job_scheduler import JobScheduler
from millhand.testing import ManualClock, Probe

MINUTE = timedelta(minutes=1)
REQUIRED = 0xD1  # available, pending, running, scheduled
DISCARDED_BIT = 0x08
KEY, OTHER_KEY = bytes(32), bytes(31) + b"1"


def scheduler(pool: Executor, *, num_rows: int = 10_000, clock: ManualClock | None = None) -> JobScheduler:
    clock = clock or ManualClock(NOW)
    inserter = Inserter(pool, Config(clock=clock))
    return JobScheduler(pool, inserter, clock=clock, batch_size=BatchSize(clock, num_rows=num_rows))


async def test_scheduler_leaves_rows_as_rivers_does(tx: Executor) -> None:
    """Each row of River's recorded run ends in the state and with the metadata that River left."""
    unique = {"unique_key": KEY, "unique_states": REQUIRED}
    twice = {"unique_key": OTHER_KEY, "unique_states": REQUIRED, "scheduled_at": NOW - MINUTE}
    scheduled, retryable = JobState.SCHEDULED, JobState.RETRYABLE
    rows = {
        "due": await insert_job(tx, scheduled, scheduled_at=NOW - MINUTE),
        "due within 5 s": await insert_job(tx, scheduled, scheduled_at=NOW + timedelta(seconds=4)),
        "due later": await insert_job(tx, scheduled, scheduled_at=NOW + 60 * MINUTE),
        "retryable, due": await insert_job(tx, retryable, scheduled_at=NOW - MINUTE),
        "retryable, key taken": await insert_job(tx, retryable, **{**unique, "scheduled_at": NOW - MINUTE}),
        "key's holder": await insert_job(tx, JobState.AVAILABLE, **unique),
        "two retryable with one key: first": await insert_job(tx, retryable, **twice),
        "two retryable with one key: second": await insert_job(tx, retryable, **twice),
    }

    await scheduler(tx).run_once()

    [photos] = [story["photos"] for story in golden("jobs") if story["scenario"] == "scheduled by the leader"]
    recorded = {photo["when"]: photo["row"] for photo in photos}
    assert set(recorded) == set(rows)
    for name, before in rows.items():
        after = await get_job(tx, before.id)
        expected = recorded[name]
        assert (after.state, after.metadata) == (expected["columns"]["state"], expected["metadata"]), name
        assert after.scheduled_at == before.scheduled_at
        # River dates discarded jobs five seconds ahead.
        is_discarded = after.state is JobState.DISCARDED
        assert after.finalized_at == (NOW + timedelta(seconds=5) if is_discarded else None), name


@pytest.mark.parametrize(
    ("holder", "expected"),
    [
        (JobState.AVAILABLE, JobState.DISCARDED),
        (JobState.PENDING, JobState.DISCARDED),
        (JobState.RUNNING, JobState.DISCARDED),
        (JobState.SCHEDULED, JobState.DISCARDED),
        (JobState.RETRYABLE, JobState.AVAILABLE),
        (JobState.COMPLETED, JobState.AVAILABLE),
        (JobState.CANCELLED, JobState.AVAILABLE),
        (JobState.DISCARDED, JobState.AVAILABLE),
    ],
)
async def test_scheduler_discards_a_job_only_if_its_key_is_held(
    tx: Executor, holder: JobState, expected: JobState
) -> None:
    """Only a row whose unique mask contains its state holds the key."""
    unique = {"unique_key": KEY, "unique_states": REQUIRED}
    # The other job is due much later, or it would count as a duplicate too.
    await insert_job(tx, holder, **unique, scheduled_at=NOW + 60 * MINUTE)
    job = await insert_job(tx, JobState.RETRYABLE, **unique, scheduled_at=NOW - MINUTE)

    await scheduler(tx).run_once()

    assert (await get_job(tx, job.id)).state is expected


async def test_scheduler_leaves_pending_and_future_jobs(tx: Executor) -> None:
    """Only scheduled and retryable jobs that are due by the next pass change."""
    late = NOW + timedelta(seconds=5, microseconds=1)
    jobs = [
        await insert_job(tx, JobState.PENDING, scheduled_at=NOW - MINUTE),
        await insert_job(tx, JobState.SCHEDULED, scheduled_at=late),
        await insert_job(tx, JobState.RETRYABLE, scheduled_at=late),
        await insert_job(tx, JobState.DISCARDED, scheduled_at=NOW - MINUTE),
    ]

    await scheduler(tx).run_once()

    assert [await get_job(tx, job.id) for job in jobs] == jobs


async def test_scheduler_is_not_wedged_by_a_mask_that_holds_the_key_when_discarded(tx: Executor) -> None:
    """The duplicate is discarded and all others are scheduled; River's leader fails here for ever."""
    mask = REQUIRED | DISCARDED_BIT
    unique = {"unique_key": KEY, "unique_states": mask}
    await insert_job(tx, JobState.AVAILABLE, **unique)
    wedged = await insert_job(tx, JobState.RETRYABLE, **unique, scheduled_at=NOW - 2 * MINUTE)
    other = await insert_job(tx, JobState.RETRYABLE, scheduled_at=NOW - MINUTE)

    await scheduler(tx).run_once()

    after = await get_job(tx, wedged.id)
    assert (after.state, after.unique_key, after.unique_states) == (JobState.DISCARDED, KEY, REQUIRED)
    assert (await get_job(tx, other.id)).state is JobState.AVAILABLE


async def test_scheduler_works_off_a_backlog_batch_by_batch(tx: Executor) -> None:
    """One pass schedules more jobs than fit into a batch."""
    jobs = [await insert_job(tx, JobState.SCHEDULED, scheduled_at=NOW - MINUTE) for _ in range(5)]

    await scheduler(tx, num_rows=2).run_once()

    assert {(await get_job(tx, job.id)).state for job in jobs} == {JobState.AVAILABLE}


@pytest.mark.parametrize("num_before", [0, 2, 3])
async def test_scheduler_goes_past_whole_batches_of_locked_jobs(
    schema_driver: AsyncpgDriver, num_before: int
) -> None:
    """A transaction that has locked more jobs than fit into a batch, anywhere in a backlog, delays no others."""
    pool = schema_driver.pool
    jobs = [await insert_job(pool, JobState.SCHEDULED, scheduled_at=NOW - MINUTE) for _ in range(12)]
    locked = [job.id for job in jobs[num_before : num_before + 5]]
    lock = qualified("SELECT FROM /* schema */river_job WHERE id = ANY($1) FOR UPDATE", pool)

    async with pool.begin() as tx:
        await tx.fetch(lock, [locked])
        await scheduler(pool, num_rows=2).run_once()

    waiting = [job.id for job in jobs if (await get_job(pool, job.id)).state is JobState.SCHEDULED]
    assert waiting == locked


async def test_scheduler_stops_between_batches_of_a_backlog(schema_driver: AsyncpgDriver) -> None:
    """A leader that steps down does not schedule the rest of a backlog first, although it does not pause."""
    pool = schema_driver.pool
    for _ in range(50):
        await insert_job(pool, JobState.SCHEDULED, scheduled_at=NOW - MINUTE)
    service = scheduler(pool, num_rows=1)
    probe = Probe(service)

    await service.start()
    await probe.wait("batch")
    await service.stop()

    sql = "SELECT count(*) AS num FROM /* schema */river_job WHERE state = 'scheduled'"
    [row] = await pool.fetch(qualified(sql, pool))
    assert row["num"] > 0


@pytest.mark.parametrize("num_jobs", [1, 2, 7, 16])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
async def test_scheduler_leaves_out_the_row_that_cannot_be_written(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture, num_jobs: int, place: str
) -> None:
    """The row that the database refuses is logged, and the same pass schedules all others."""
    pool = schema_driver.pool
    jobs = [await insert_job(pool, JobState.SCHEDULED, scheduled_at=NOW - MINUTE) for _ in range(num_jobs)]
    bad = jobs[{"first": 0, "middle": num_jobs // 2, "last": -1}[place]]
    service = scheduler(pool, num_rows=16)
    probe = Probe(service)

    async with _refusing(pool, bad):
        await service.run_once()
        caplog.clear()
        await service.run_once()

    left = [job.id for job in jobs if (await get_job(pool, job.id)).state is JobState.SCHEDULED]
    assert left == [bad.id]
    assert await probe.wait("isolated") == bad.id
    assert caplog.records == []  # the next passes leave it out without a log line


@pytest.mark.parametrize("is_due", [True, False])
async def test_scheduler_leaves_no_row_out_if_it_may_write_none(
    schema_driver: AsyncpgDriver, postgres_url: str, caplog: pytest.LogCaptureFixture, is_due: bool
) -> None:
    """Without the right to write jobs a pass fails at once, whether jobs are due or not, and blames no row."""
    pool, schema, role = schema_driver.pool, schema_driver.schema, f"millhand_reader_{os.getpid()}"
    later = NOW - MINUTE if is_due else NOW + 60 * MINUTE
    job = await insert_job(pool, JobState.SCHEDULED, scheduled_at=later)
    separator = "&" if "?" in postgres_url else "?"
    reader = AsyncpgDriver(f"{postgres_url}{separator}role={role}", schema)
    await pool.execute_script(f"""
        CREATE ROLE {role};
        GRANT USAGE ON SCHEMA {schema} TO {role};
        GRANT SELECT ON {schema}.river_job TO {role};
    """)
    try:
        await reader.open()
        service = scheduler(reader.pool, num_rows=16)
        async with asyncio.timeout(GENEROUS_SECONDS):
            with pytest.raises(DriverError, match="permission denied for table river_job"):
                await service.run_once()
    finally:
        await reader.close()
        await pool.execute_script(f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert (caplog.records, service._isolated_until) == ([], {})
    assert await get_job(pool, job.id) == job


async def test_scheduler_tries_a_row_that_was_left_out_again(schema_driver: AsyncpgDriver) -> None:
    """Once the row can be written again, it is scheduled within five minutes."""
    pool = schema_driver.pool
    clock = ManualClock(NOW)
    job = await insert_job(pool, JobState.SCHEDULED, scheduled_at=NOW - MINUTE)
    service = scheduler(pool, clock=clock)
    async with _refusing(pool, job):
        await service.run_once()

    await service.run_once()
    before = await get_job(pool, job.id)
    clock.advance(300)
    await service.run_once()

    assert before.state is JobState.SCHEDULED
    assert (await get_job(pool, job.id)).state is JobState.AVAILABLE


async def test_scheduler_announces_the_queues_of_jobs_that_are_due(schema_driver: AsyncpgDriver) -> None:
    """Queues are announced for jobs that can be fetched now, and not for later ones."""
    pool = schema_driver.pool
    for queue, due_in in {"now": 0.0, "soon": 0.004, "later": 1.0}.items():
        await insert_job(pool, JobState.SCHEDULED, queue=queue, scheduled_at=NOW + timedelta(seconds=due_in))
    clock = ManualClock(NOW)
    inserter = Inserter(pool, Config(clock=clock))
    probe = Probe(inserter)
    await inserter.start()

    await JobScheduler(pool, inserter, clock=clock).run_once()
    announced = await probe.wait("announced")
    await inserter.stop()

    assert set(announced) == {"now", "soon"}


async def test_scheduler_begins_passes_at_a_fixed_interval(tx: Executor) -> None:
    """A long pass is followed by a shorter pause, because each pass looks ahead to the next."""
    clock = ManualClock(NOW)
    service = scheduler(tx, clock=clock)

    await service.run_once()
    clock.advance(2)
    pause = service.next_pause_seconds()
    clock.advance(60)

    assert (pause, service.next_pause_seconds()) == (3.0, 0.0)


async def test_schedulers_of_two_leaders_do_no_harm(schema_driver: AsyncpgDriver) -> None:
    """Two schedulers at once schedule each job and keep each key once."""
    pool = schema_driver.pool
    for n in range(40):
        unique = {"unique_key": bytes([n // 2]) * 32, "unique_states": REQUIRED}
        await insert_job(pool, JobState.RETRYABLE, **unique, scheduled_at=NOW - MINUTE)

    async with asyncio.timeout(GENEROUS_SECONDS), asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(scheduler(pool, num_rows=7).run_once())

    sql = "SELECT state::text AS state, count(*) AS num FROM /* schema */river_job GROUP BY state"
    counts = {row["state"]: row["num"] for row in await pool.fetch(qualified(sql, pool))}
    assert counts == {"available": 20, "discarded": 20}


async def test_scheduler_logs_how_many_jobs_it_moved(tx: Executor, caplog: pytest.LogCaptureFixture) -> None:
    """Scheduled jobs are logged at DEBUG, discarded duplicates at INFO."""
    caplog.set_level(logging.DEBUG, "millhand.engine.maintenance")
    for _ in range(2):
        await insert_job(
            tx, JobState.RETRYABLE, unique_key=KEY, unique_states=REQUIRED, scheduled_at=NOW - MINUTE
        )

    await scheduler(tx).run_once()

    emitted = [(record.levelname, record.msg, record.num_jobs) for record in caplog.records]  # type: ignore[attr-defined]
    assert emitted == [("DEBUG", "jobs scheduled", 1), ("INFO", "jobs discarded as duplicates", 1)]


class _refusing:  # noqa: N801 - used as a function
    """Make the database refuse every change of one row, as a user's trigger may."""

    def __init__(self, pool: Executor, job: JobRow) -> None:
        self.job = job
        self.pool = pool

    async def __aenter__(self) -> None:
        await self.pool.execute_script(f"""
            CREATE FUNCTION /* schema */refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'not this one'; END
            $$;
            CREATE TRIGGER refuse BEFORE UPDATE ON /* schema */river_job
                FOR EACH ROW WHEN (old.id = {self.job.id}) EXECUTE FUNCTION /* schema */refuse();
        """)

    async def __aexit__(self, *_: object) -> None:
        await self.pool.execute_script("""
            DROP TRIGGER refuse ON /* schema */river_job;
            DROP FUNCTION /* schema */refuse();
        """)
