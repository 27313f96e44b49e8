"""Intervals, their sums, and what the page reads of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from factory import qualified
from millhand.db.driver.protocol import Executor
from millhand.history.job_stats import (
    JOBS_MAX,
    JobStats,
    MinuteJobs,
    Step,
    job_stats_count_by_kind,
    job_stats_count_minutes,
    job_stats_get_uncounted,
    job_stats_list,
    job_stats_list_by_kind,
    job_stats_list_by_queue,
    job_stats_list_of_kinds,
    same_hours,
    stride_of,
    summed,
)

AT = datetime(2026, 11, 25, 12, 34, 56, tzinfo=UTC)
HOUR = timedelta(hours=1)
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("step", "begin"),
    [
        (Step.MINUTE, AT.replace(second=0)),
        (Step.TEN_MINUTES, AT.replace(minute=30, second=0)),
        (Step.HOUR, NOON),
        (Step.DAY, NOON.replace(hour=0)),
    ],
)
def test_interval_begins_at_a_whole_step(step: Step, begin: datetime) -> None:
    """Minutes, hours and days begin at whole ones in UTC."""
    assert step.floor(AT) == begin
    assert step.range(begin, begin) == []
    assert step.range(AT, AT + step.length) == [begin, begin + step.length]
    assert step.range(begin, begin + 2 * step.length) == [begin, begin + step.length]


def test_usual_hours_are_those_of_the_days_before() -> None:
    """The same hour of each of the last seven days, and the ones before it if asked for."""
    assert same_hours(AT) == [NOON - timedelta(days=day) for day in range(1, 8)]
    assert same_hours(AT, num_hours=2, num_days=1) == [NOON - 24 * HOUR, NOON - 25 * HOUR]


@pytest.mark.parametrize(
    ("nums", "stride"), [((), 1), ((0,), 1), ((JOBS_MAX,), 1), ((5, JOBS_MAX + 1), 2), ((10 * JOBS_MAX,), 10)]
)
def test_only_a_sample_is_read_of_a_busy_minute(nums: tuple[int, ...], stride: int) -> None:
    """No minute reads more jobs than the limit."""
    assert stride_of([MinuteJobs(AT, num) for num in nums]) == stride


def test_sum_has_the_numbers_of_all_rows() -> None:
    """Counts, durations and histograms add up; the share is the smallest."""
    rows = [
        JobStats(began_at=AT, kind=kind, queue="*", completed=3, failed=1, run_ms=5, runs=runs, share=share)
        for kind, runs, share in (("a", (1, 2), 1.0), ("b", (0, 0, 3), 0.5))
    ]

    total = summed(rows, began_at=NOON)

    assert total == JobStats(
        began_at=NOON, kind="*", queue="*", completed=6, failed=2, run_ms=10, runs=(1, 2, 3), share=0.5
    )
    assert (total.num_attempts, total.num_errors, total.wait_percentile_ms(50)) == (8, 2, None)


async def test_a_sample_counts_for_all_jobs(tx: Executor) -> None:
    """A minute of which one job in four is read shows about as many as there were, and its share."""
    fill = """
        INSERT INTO /* schema */river_job (kind, args, max_attempts, state, attempted_at, scheduled_at, finalized_at)
        SELECT 'a', '{}', 1, 'completed', $1::timestamptz, $1, $1 FROM generate_series(1, 2000)
    """
    await tx.fetch(qualified(fill, tx), [AT])
    minute = Step.MINUTE.floor(AT)

    await tx.run(job_stats_count_minutes([minute], stride=4))

    [row] = await tx.run(job_stats_list(Step.MINUTE, since=minute, until=AT))
    assert (row.share, sum(row.runs)) == (0.25, row.completed)
    assert 1_700 < row.completed < 2_300
    uncounted = job_stats_get_uncounted(since=minute, until=minute + HOUR / 60, counted_to=minute + HOUR)
    assert await tx.run(uncounted) == []


async def test_lists_have_each_kind_and_each_queue_without_the_sums(tx: Executor) -> None:
    """By kind, each kind's interval in all queues or in one; by queue, each queue's of all kinds or of one."""
    rows = [("a", "x"), ("b", "x"), ("b", "y"), ("a", "*"), ("b", "*"), ("*", "x"), ("*", "y"), ("*", "*")]
    for kind, queue in rows:
        sql = """
            INSERT INTO /* schema */millhand_job_stats
            SELECT 3600, at, $2, $3, 1, 0, 0, 0, 0, 0, '{}', '{}', 1
            FROM unnest(ARRAY[$1::timestamptz, $1::timestamptz - interval '1 hour']) AS given (at)
        """
        await tx.fetch(qualified(sql, tx), [NOON, kind, queue])

    by_kind = await tx.run(job_stats_list_by_kind(Step.HOUR, [NOON]))
    by_kind_in_y = await tx.run(job_stats_list_by_kind(Step.HOUR, [NOON], queue="y"))
    by_queue = await tx.run(job_stats_list_by_queue(Step.HOUR, [NOON]))
    by_queue_of_a = await tx.run(job_stats_list_by_queue(Step.HOUR, [NOON, NOON - HOUR], kind="a"))

    counts = await tx.run(job_stats_count_by_kind(Step.HOUR, [NOON, NOON - HOUR], queue="x"))
    of_a = await tx.run(job_stats_list_of_kinds(["a"], Step.HOUR, [NOON]))

    assert sorted((row.kind, row.num_attempts, row.num_errors) for row in counts) == [
        ("a", 2, 0),
        ("b", 2, 0),
    ]
    assert [(row.kind, row.queue) for row in of_a] == [("a", "*")]
    assert [(row.kind, row.queue) for row in by_kind] == [("a", "*"), ("b", "*")]
    assert [(row.kind, row.queue) for row in by_kind_in_y] == [("b", "y")]
    assert [(row.kind, row.queue) for row in by_queue] == [("*", "x"), ("*", "y")]
    assert [(row.queue, row.began_at) for row in by_queue_of_a] == [("x", NOON), ("x", NOON - HOUR)]
