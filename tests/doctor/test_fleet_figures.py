"""The verdict about real tables: what fails, waits and runs now, compared with the last seven days."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from factory import insert_job, qualified
from lent_schema import new_schema_driver
from millhand.clock import SystemClock
from millhand.doctor.fleet_figures import load_verdict
from millhand.doctor.fleet_verdict import Check, Verdict
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.fleet import load_fleet
from millhand.job import JobState
from millhand.queue_report import load_reports
from millhand.schema.migrator import Migrator
from millhand.store.queue_load import queue_list_names
from millhand.web.database import WebDatabase
from millhand.web.user import User

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


async def verdict(driver: AsyncpgDriver, now: datetime, **limits: tuple[str, ...]) -> Verdict:
    database = WebDatabase(driver, SystemClock(), is_owner=False)
    names = await database.run(queue_list_names())
    fleet = await load_fleet(database, now)
    reports = await load_reports(database, fleet, names)
    has_history = await database.has_audit_table()
    user = User(name="ann", **limits)
    return await load_verdict(database, user, now, fleet=fleet, has_history=has_history, reports=reports)


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
