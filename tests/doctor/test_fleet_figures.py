"""The verdict about real tables: what fails, waits and runs now, compared with the last seven days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from factory import insert_job, qualified
from lent_schema import new_schema_driver
from millhand.core.clock import SystemClock
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.doctor.fleet_figures import load_verdict
from millhand.doctor.fleet_verdict import Check, Verdict
from millhand.doctor.periodic_figures import load_runs
from millhand.engine.fleet import load_fleet
from millhand.engine.queue_report import load_reports
from millhand.engine.store.audit import audit_get_shape
from millhand.engine.store.queue_load import queue_list_names
from millhand.shells.settings.web_user import User
from millhand.shells.web.database import WebDatabase

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
WORKING = """
INSERT INTO /* schema */river_queue (name, updated_at) VALUES ('mail', now());
INSERT INTO /* schema */millhand_client (
    id, language, version, hostname, pid, kinds, queues, queue_updates, heartbeat_interval, started_at, last_seen_at
)
SELECT 'w1', 'python', '0.1.0', 'host', 1, ARRAY['mail'], '{"mail": 20}', '{}', interval '1 min', now(), now();
INSERT INTO /* schema */river_leader (elected_at, expires_at, leader_id) VALUES (now(), now() + interval '1 h', 'w1');
INSERT INTO /* schema */millhand_leader (elected_at, expires_at, leader_id) VALUES (now(), now() + interval '1 h', 'w1');
INSERT INTO /* schema */millhand_history (holder, expires_at, counted_to)
VALUES ('w1', now() + interval '1 h', date_trunc('minute', now()))
"""


async def verdict(driver: AsyncpgDriver, now: datetime, **limits: tuple[str, ...]) -> Verdict:
    database = WebDatabase(driver, SystemClock(), is_owner=False)
    names = await database.run(queue_list_names())
    fleet = await load_fleet(database, now)
    reports = await load_reports(database, fleet, names)
    has_history = await database.has(audit_get_shape)
    return await load_verdict(
        database,
        User(name="ann", **limits),
        now,
        fleet=fleet,
        has_history=has_history,
        reports=reports,
        periodic=await database.recent(load_runs, timedelta(minutes=1)),
        completed_retention=DAY,
    )


async def test_verdict_compares_now_with_the_same_hours_of_the_last_days(
    schema_driver: AsyncpgDriver,
) -> None:
    """A kind that fails, a queue that waits and a job that hangs are found by the history, within the user's limits."""
    pool, now = schema_driver.pool, datetime.now(UTC)
    minute, hour = now.replace(second=0, microsecond=0), now.replace(minute=0, second=0, microsecond=0)
    stats = """
        INSERT INTO /* schema */millhand_job_stats
        SELECT step, at, 'mail', queue, completed, 0, 0, failed, 0, 0, '{}', '{0,9}', 1
        FROM (VALUES (60, $1::timestamptz, 10, 90), (3600, $2::timestamptz, 990, 10)) AS given (step, at, completed, failed),
            (VALUES ('slow'), ('*')) AS place (queue)
    """
    await pool.fetch(qualified(stats, pool), [minute - MINUTE, hour - 3 * DAY])
    depth = "INSERT INTO /* schema */millhand_queue_depth VALUES (3600, $1, 'slow', 1, 0, 0, 0, 1000, FALSE)"
    await pool.fetch(qualified(depth, pool), [hour - 3 * DAY])
    await insert_job(pool, kind="mail", queue="slow", scheduled_at=now - 5 * MINUTE)
    await insert_job(pool, JobState.RUNNING, kind="mail", queue="slow", attempted_at=now - 9 * MINUTE)

    found = {one.check: one.usual for one in (await verdict(schema_driver, now)).findings}
    elsewhere = await verdict(schema_driver, now, queues=("other",))

    assert found[Check.FAILING] == "1 % at this time of day"
    assert found[Check.BEHIND] == "up to 1.0 s at this time of day"
    assert found[Check.STUCK] == "95 of 100 jobs of its kind take at most 2 ms"
    assert {one.check for one in elsewhere.findings} & {Check.FAILING, Check.STUCK} == set()


async def test_queue_whose_jobs_end_in_time_is_not_behind_beside_250_others(
    schema_driver: AsyncpgDriver,
) -> None:
    """What ended in a queue is known however many queues there are: 150 more jobs wait, and 500 end in a minute."""
    now = datetime.now(UTC)
    await schema_driver.pool.execute_script("""
        INSERT INTO /* schema */river_job (kind, args, max_attempts, state, queue, scheduled_at)
        SELECT 'mail', '{}', 1, 'available', 'z', now() - interval '5 min' FROM generate_series(1, 150);
        INSERT INTO /* schema */millhand_queue_depth
        SELECT 60, date_trunc('minute', now()) - n * interval '1 min', '*', 0, 0, 0, 0, 0, FALSE
        FROM generate_series(8, 12) AS n;
        INSERT INTO /* schema */millhand_job_stats
        SELECT 60, date_trunc('minute', now()) - n * interval '1 min', '*', queue, 500, 0, 0, 0, 0, 0, '{}', '{}', 1
        FROM generate_series(0, 12) AS n,
            (SELECT 'a' || q FROM generate_series(1, 250) AS q UNION ALL SELECT 'z') AS given (queue)
    """)

    checks = {one.check for one in (await verdict(schema_driver, now)).findings}

    assert (Check.UNWORKED in checks, Check.BEHIND in checks) == (True, False)


async def plant_fleet(driver: AsyncpgDriver, now: datetime, *, inserted_before: timedelta) -> None:
    """
    Plant a fleet that works: a client that leads, a job that runs, one that is due, and a current history.

    A periodic job has run each ten minutes, for the last time so long ago.
    """
    pool = driver.pool
    await pool.execute_script(WORKING)
    ran = {"kind": "mail", "queue": "mail", "attempt": 1}
    for number in (3, 2, 1, 0):
        at = now - inserted_before - number * 10 * MINUTE
        metadata = '{"periodic": true, "river:periodic_job_id": "prices"}'
        await insert_job(
            pool,
            JobState.COMPLETED,
            **ran,
            created_at=at,
            attempted_at=at,
            finalized_at=at,
            metadata=metadata,
        )
    await insert_job(pool, JobState.RUNNING, **ran, attempted_at=now - 5 * MINUTE, attempted_by=["w1"])
    await insert_job(pool, kind="mail", queue="mail", scheduled_at=now - MINUTE / 60)


async def test_fleet_that_works_has_no_finding(schema_driver: AsyncpgDriver) -> None:
    """With a client that leads, jobs that end in time and a periodic job that is inserted in time, nothing is wrong."""
    now = datetime.now(UTC)
    await plant_fleet(schema_driver, now, inserted_before=15 * MINUTE)

    assert (await verdict(schema_driver, now)).findings == ()


async def test_verdict_leaves_out_tasks_that_the_leader_keeps(schema_driver: AsyncpgDriver) -> None:
    """Completed tasks of a flow that failed stay for days, so their age is no finding."""
    now = datetime.now(UTC)
    await plant_fleet(schema_driver, now, inserted_before=15 * MINUTE)
    await insert_job(
        schema_driver.pool, JobState.COMPLETED, finalized_at=now - 3 * DAY, metadata='{"workflow_id": "1"}'
    )

    assert (await verdict(schema_driver, now)).findings == ()


async def test_verdict_finds_late_periodic_jobs_and_a_late_cleanup(schema_driver: AsyncpgDriver) -> None:
    """A periodic job whose runs ended is found for those who see its queue, and so are jobs that should be deleted."""
    now = datetime.now(UTC)
    await plant_fleet(schema_driver, now, inserted_before=55 * MINUTE)
    await insert_job(schema_driver.pool, JobState.COMPLETED, finalized_at=now - 26 * HOUR)

    found = [(one.check, one.text) for one in (await verdict(schema_driver, now)).findings]
    elsewhere = await verdict(schema_driver, now, queues=("other",))

    assert found == [
        (Check.MISSED, "Periodic job prices was last inserted 55 min ago."),
        (Check.CLEANUP, "The oldest completed job is 1 d 2 h old. The leader deletes them after 1 d."),
    ]
    assert Check.MISSED not in {one.check for one in elsewhere.findings}


async def test_verdict_finds_a_queue_without_clients(schema_driver: AsyncpgDriver) -> None:
    """In an empty database all is well; a due job that no client works is a finding."""
    now = datetime.now(UTC)
    before = await verdict(schema_driver, now)
    await insert_job(schema_driver.pool, queue="q")

    after = await verdict(schema_driver, now)

    assert before.findings == ()
    assert [(one.check, one.text) for one in after.findings if one.check is Check.UNWORKED] == [
        (Check.UNWORKED, "No client works queue q, in which jobs are due.")
    ]


@pytest.mark.slow
async def test_verdict_needs_no_history(postgres_url: str) -> None:
    """At version 6 of line millhand, the verdict has the findings that need no history."""
    driver = await new_schema_driver(postgres_url)
    await Migrator(driver, "millhand").down()
    await insert_job(driver.pool, queue="q")

    found = await verdict(driver, datetime.now(UTC))

    await driver.pool.fetch(f"DROP SCHEMA {driver.schema} CASCADE")
    await driver.close()
    assert Check.UNWORKED in {one.check for one in found.findings}
