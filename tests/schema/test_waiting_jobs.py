"""Claims about a migration down while jobs wait for limits."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.errors import MigrationError
from millhand.schema.lock_limit import LockLimit
from millhand.schema.migrator import Direction, Migrator, migration_sql

GENEROUS_SECONDS = 30.0
# Jobs 1, 2 and 4 wait. Job 3 has a slot, and job 5 is pending by a rule of the application.
WAITING_JOBS = """
INSERT INTO river_job (id, kind, queue, state, max_attempts, args) VALUES
(1, 'a', 'mail', 'pending', 3, '{}'),
(2, 'a', 'mail', 'pending', 3, '{}'),
(3, 'a', 'mail', 'available', 3, '{}'),
(4, 'a', 'reports', 'pending', 3, '{}'),
(5, 'a', 'other', 'pending', 3, '{}');
INSERT INTO millhand_limited_job (job_id, queue, partition_key, priority, due_at, admitted_at)
SELECT id, queue, '[]', 1, now(), CASE WHEN state = 'available' THEN now() END FROM river_job WHERE queue <> 'other';
"""
LOCK_WAITERS = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'millhand_limited_job'::regclass"


@pytest.fixture
async def millhand(bare_driver: AsyncpgDriver) -> Migrator:
    """The migrator of line millhand, with all versions applied."""
    await Migrator(bare_driver).up()
    migrator = Migrator(bare_driver, "millhand", lock_limit=LockLimit(timeout=None))
    await migrator.up()
    return migrator


async def refusal(migrator: Migrator, **bounds: int) -> str:
    with pytest.raises(MigrationError) as denied:
        await migrator.down(**bounds)
    return str(denied.value)


async def test_migrator_keeps_limits_while_jobs_wait(bare: asyncpg.Connection, millhand: Migrator) -> None:
    """No migration below version 10 drops the places of pending jobs, nor does a dry run plan it; without them it does."""
    await bare.execute(WAITING_JOBS)

    refused = {
        await refusal(millhand, max_steps=4, dry_run=True),
        await refusal(millhand, target=9),
        await refusal(millhand, target=0),
    }
    kept = await millhand.validate()
    await bare.execute("UPDATE river_job SET state = 'available' WHERE id IN (1, 2, 4)")
    undone = await millhand.down(target=9)

    assert refused == {
        (
            "no job may wait for a limit when line 'millhand' goes below version 10, got 2 in queue 'mail' and 1 in queue "
            "'reports'; while a worker runs, make them available: millhand limit remove mail; millhand limit remove reports"
        )
    }
    assert (kept, [step.version for step in undone]) == ((), [13, 12, 11, 10])


async def test_sql_of_the_migration_keeps_limits_while_jobs_wait(
    bare: asyncpg.Connection, millhand: Migrator
) -> None:
    """Another migration tool, which runs the printed SQL, gets an error with the remedy."""
    await bare.execute(WAITING_JOBS)

    with pytest.raises(asyncpg.PostgresError) as refused:
        await bare.execute(migration_sql("millhand", versions=[10], direction=Direction.DOWN))
    await bare.execute("ROLLBACK")

    assert (refused.value.sqlstate, str(refused.value)) == (
        "MH001",
        "3 jobs that wait for limits\nHINT:  While a worker runs, make them available: millhand limit remove QUEUE",
    )
    assert await millhand.validate() == ()


async def test_migrator_finds_jobs_that_come_while_it_waits_for_the_table(
    bare: asyncpg.Connection, millhand: Migrator
) -> None:
    """Jobs that commit after the first look, and before the lock, are found, and the step is rolled back."""
    await millhand.down(target=10)
    before = await millhand.validate()
    inserting = bare.transaction()
    await inserting.start()
    await bare.execute(WAITING_JOBS)
    undoing = asyncio.create_task(refusal(millhand))
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not await bare.fetch(LOCK_WAITERS):
            pass
    await inserting.commit()

    assert await undoing == (
        "version 10 (limits) of line 'millhand' must migrate down, got 3 jobs that wait for limits; it was rolled back; "
        "while a worker runs, make them available with `millhand limit remove QUEUE`, and run it again"
    )
    assert await millhand.validate() == before
