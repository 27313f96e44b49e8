"""The claim of the history, and the deletion of what is old."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from factory import insert_job, qualified
from millhand.core.job import JobState
from millhand.db.driver.protocol import Executor
from millhand.history.store import TABLES, history_begin, history_delete_intervals, history_delete_records

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)


async def test_old_rows_are_deleted_a_limited_number_at_a_time(tx: Executor) -> None:
    """Minutes go after two days, hours and groups after ninety, events after thirty, the audit after a year."""
    for step, days in ((60, (1, 3, 4)), (3600, (80, 91)), (86400, (80, 91))):
        for day in days:
            sql = "INSERT INTO /* schema */millhand_error_stats VALUES ($1, $2, 'f', 'a', 1)"
            await tx.fetch(qualified(sql, tx), [step, NOON - day * DAY])
    group = "INSERT INTO /* schema */millhand_error_group VALUES ('f', 'a', 'ValueError', 1, $1, $1)"
    await tx.fetch(qualified(group, tx), [NOON - 100 * DAY])
    for day in (29, 31):
        sql = "INSERT INTO /* schema */millhand_fleet_event VALUES ($1, 'client_started', 'a', '{}')"
        await tx.fetch(qualified(sql, tx), [NOON - day * DAY])
    for day in (364, 366):
        sql = """INSERT INTO /* schema */millhand_audit (at, actor, role, address, action, subject, detail, num_jobs)
            VALUES ($1, '', '', '', '', '', '{}', 0)"""
        await tx.fetch(qualified(sql, tx), [NOON - day * DAY])

    first = [await tx.run(history_delete_intervals(table, at=NOON, limit=1)) for table in TABLES]
    second = [await tx.run(history_delete_intervals(table, at=NOON, limit=9)) for table in TABLES]
    records = await tx.run(history_delete_records(at=NOON, limit=9))

    assert (first, second, records) == ([0, 0, 3], [0, 0, 1], 3)
    left = await tx.fetch(qualified("SELECT step FROM /* schema */millhand_error_stats ORDER BY step", tx))
    assert [row["step"] for row in left] == [60, 3600, 86400]


@pytest.mark.parametrize(("minutes", "has_jobs"), [(9, True), (11, False)])
async def test_minutes_are_counted_until_their_hour_is_added_up(
    tx: Executor, minutes: int, has_jobs: bool
) -> None:
    """After the last job, passes go on for ten minutes, so that its minute is part of its hour and day."""
    begin = "INSERT INTO /* schema */millhand_history VALUES ('default', 'me', $1, $1)"
    await tx.fetch(qualified(begin, tx), [NOON])
    await insert_job(tx, JobState.COMPLETED, finalized_at=NOON - timedelta(minutes=minutes))

    claim = await tx.run(history_begin(holder="me", now=NOON + timedelta(minutes=1, seconds=10)))

    assert claim is not None
    assert (claim.has_jobs, claim.counts_to - claim.counted_to) == (has_jobs, timedelta(minutes=has_jobs))


async def test_a_clock_that_was_set_back_does_not_stop_the_history(tx: Executor) -> None:
    """Minutes after now are not counted as counted."""
    begin = "INSERT INTO /* schema */millhand_history VALUES ('default', 'me', $1, $1)"
    await tx.fetch(qualified(begin, tx), [NOON + DAY])
    await insert_job(tx)

    claim = await tx.run(history_begin(holder="me", now=NOON))

    assert claim is not None
    assert claim.counted_to == NOON
