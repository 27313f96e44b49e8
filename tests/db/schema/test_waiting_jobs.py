"""Claims about a migration down while jobs wait for limits or for other jobs."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from millhand.core.errors import MigrationError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.lock_limit import LockLimit
from millhand.db.schema.migrator import Direction, Migrator, migration_sql

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
# In each of flows 1 to 7 a job waits, and in flow 1 another one. In flow 8 none waits, and that of flow 9 was deleted.
WAITING_TASKS = """
INSERT INTO river_job (id, kind, state, max_attempts, args)
SELECT id, 'a', CASE WHEN id = 8 THEN 'available' ELSE 'pending' END::river_job_state, 3, '{}'
FROM generate_series(1, 10) AS id WHERE id <> 9;
INSERT INTO millhand_flow (id, name, num_tasks, num_open) SELECT id, 'flow ' || id, 1, 1 FROM generate_series(1, 9) AS id;
INSERT INTO millhand_flow_task (job_id, flow_id, state, after_join_id, join_ids)
SELECT id, CASE WHEN id = 10 THEN 1 ELSE id END, CASE WHEN id = 8 THEN 'released' ELSE 'waiting' END, id, '{}'
FROM generate_series(1, 10) AS id;
"""
LOCK_WAITERS = "SELECT FROM pg_locks WHERE NOT granted AND relation = '{}'::regclass"


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


@pytest.mark.slow
async def test_migrator_keeps_limits_while_jobs_wait(bare: asyncpg.Connection, millhand: Migrator) -> None:
    """No migration below version 10 drops the places of pending jobs, nor does a dry run plan it; without them it does."""
    await bare.execute(WAITING_JOBS)

    refused = {
        await refusal(millhand, target=9, dry_run=True),
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
    assert (kept, [step.version for step in undone]) == ((), [16, 15, 14, 13, 12, 11, 10])


@pytest.mark.slow
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


@pytest.mark.slow
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
        while not await bare.fetch(LOCK_WAITERS.format("millhand_limited_job")):
            pass
    await inserting.commit()

    assert await undoing == (
        "version 10 (limits) of line 'millhand' must migrate down, got 3 jobs that wait for limits; it was rolled back; "
        "while a worker runs, make them available with `millhand limit remove QUEUE`, and run it again"
    )
    assert await millhand.validate() == before


@pytest.mark.slow
async def test_migrator_keeps_flows_while_jobs_wait(bare: asyncpg.Connection, millhand: Migrator) -> None:
    """No migration below version 12 drops the tasks of pending jobs, nor does a dry run plan it; without them it does."""
    await bare.execute(WAITING_TASKS)

    many = {
        await refusal(millhand, target=11, dry_run=True),
        await refusal(millhand, target=11),
        await refusal(millhand, target=0),
    }
    await bare.execute("DELETE FROM river_job WHERE id > 6 AND id < 10")
    six = await refusal(millhand, target=11)
    await bare.execute("DELETE FROM river_job WHERE id > 2 AND id < 10")
    two = await refusal(millhand, target=11)
    kept = await millhand.validate()
    await bare.execute(
        "UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE state = 'pending'"
    )
    await millhand.down(target=11)
    undone = await millhand.validate()

    rule = "no job may wait for other jobs when line 'millhand' goes below version 12, got "
    counts = "2 in flow 1 'flow 1' and 1 in flow 2 'flow 2'"
    more = "".join(f" and 1 in flow {id} 'flow {id}'" for id in (3, 4, 5))
    remedy = "; let the flows end, or cancel them: millhand flow cancel 1; millhand flow cancel 2"
    three = "; millhand flow cancel 3; millhand flow cancel 4; millhand flow cancel 5"
    assert many == {f"{rule}{counts}{more} and more in 2 other flows{remedy}{three}"}
    assert six == f"{rule}{counts}{more} and more in 1 other flow{remedy}{three}"
    assert two == f"{rule}{counts}{remedy}"
    assert (kept, undone[0]) == ((), 12)


@pytest.mark.slow
async def test_sql_of_the_migration_keeps_flows_while_jobs_wait(
    bare: asyncpg.Connection, millhand: Migrator
) -> None:
    """Another migration tool, which runs the printed SQL, gets an error with the remedy."""
    await bare.execute(WAITING_TASKS)

    with pytest.raises(asyncpg.PostgresError) as refused:
        await bare.execute(migration_sql("millhand", versions=[12], direction=Direction.DOWN))
    await bare.execute("ROLLBACK")

    assert (refused.value.sqlstate, str(refused.value)) == (
        "MH001",
        "8 jobs that wait for other jobs of their flows\nHINT:  Cancel their flows: millhand flow cancel ID",
    )
    assert await millhand.validate() == ()


@pytest.mark.slow
async def test_migrator_finds_tasks_that_come_while_it_waits_for_the_table(
    bare: asyncpg.Connection, millhand: Migrator
) -> None:
    """Tasks that commit after the first look, and before the lock, are found, and the step is rolled back."""
    await millhand.down(target=12)
    before = await millhand.validate()
    inserting = bare.transaction()
    await inserting.start()
    await bare.execute(WAITING_TASKS)
    undoing = asyncio.create_task(refusal(millhand))
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not await bare.fetch(LOCK_WAITERS.format("millhand_flow_task")):
            pass
    await inserting.commit()

    assert await undoing == (
        "version 12 (flows) of line 'millhand' must migrate down, got 8 jobs that wait for other jobs of their flows; it "
        "was rolled back; let their flows end, or cancel them with `millhand flow cancel ID`, and run it again"
    )
    assert await millhand.validate() == before


async def test_remedies_name_the_schema(schema_driver: AsyncpgDriver) -> None:
    """Commands that have no option for the schema get it by their environment."""
    name, fetch = schema_driver.schema, schema_driver.pool.fetch
    for table, values in {
        "river_job (id, kind, state, max_attempts, args)": "1, 'a', 'pending', 3, '{}'",
        "millhand_flow (id, name, num_tasks, num_open)": "1, 'one', 1, 1",
        "millhand_flow_task (job_id, flow_id, state, join_ids)": "1, 1, 'waiting', '{}'",
    }.items():
        await fetch(f"INSERT INTO {name}.{table} VALUES ({values})")

    text = await refusal(Migrator(schema_driver, "millhand"), target=11)

    assert text.endswith(f"or cancel them: MILLHAND_DATABASE_SCHEMA={name} millhand flow cancel 1")
