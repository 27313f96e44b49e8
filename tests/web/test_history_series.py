"""Charts of the history: every point of a range is there, and its sums are those of the table."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from factory import qualified
from millhand.core.clock import SystemClock
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.history.job_stats import ROWS_MAX, JobStats
from millhand.history.series import RANGES, HistoryRange, load_series, range_of, series_of
from millhand.history.store import HistoryState
from millhand.shells.settings.web_user import User
from millhand.shells.web.database import WebDatabase

NOW = datetime(2026, 11, 25, 12, 34, 56, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize("range", RANGES, ids=lambda one: one.name)
def test_range_has_all_its_points_and_reads_a_limited_number_of_rows(range: HistoryRange) -> None:
    """The points cover the range without a gap, the last one contains now, and at most 200 are drawn."""
    series = series_of([], range, NOW, None)

    instants = [point.began_at for point in series.points]
    assert len(instants) == range.length / range.width <= 200
    assert instants[-1] <= NOW < instants[-1] + range.width
    assert {after - at for at, after in itertools.pairwise(instants)} == {range.width}
    assert range.length / range.step.length <= ROWS_MAX
    assert (series.total.completed, series.total.run.p95, series.counted_to) == (0, None, None)


def test_point_has_the_sum_of_its_intervals() -> None:
    """Minutes of five minutes become one point, with their counts, percentiles and the smallest share."""
    rows = [
        JobStats(began_at=at, kind="*", queue="*", completed=2, failed=1, runs=(0, 2), share=share)
        for at, share in (
            (NOW.replace(minute=30, second=0), 1.0),
            (NOW.replace(minute=34, second=0), 0.5),
            (NOW.replace(minute=29, second=0), 1.0),
        )
    ]

    series = series_of(rows, range_of("6h"), NOW, None)

    before, last = series.points[-2:]
    assert (before.completed, last.completed, series.total.completed) == (2, 4, 6)
    assert (last.failed, last.share, last.run.p50) == (2, 0.5, 0.0015)
    assert last.wait.p99 is None


def test_minutes_that_are_not_counted_yet_have_no_point() -> None:
    """The last point begins before the history's end, so a chart does not fall to zero at its right end."""
    state = HistoryState("me", NOW, NOW.replace(minute=32, second=0))

    series = series_of([], range_of("1h"), NOW, state)

    assert series.points[-1].began_at == NOW.replace(minute=31, second=0)
    assert series.counted_to == state.counted_to


def test_unknown_range_is_refused() -> None:
    """The error lists the ranges."""
    with pytest.raises(ValueError, match="range must be one of 1h, 6h, 24h, 7d, 30d, 90d, got '2h'"):
        range_of("2h")


async def test_series_is_of_what_the_user_sees(schema_driver: AsyncpgDriver) -> None:
    """Without limits the sum of all; with limits the sum of the user's queues and kinds, and nothing of others."""
    now = datetime.now(UTC)
    rows = [("*", "*", 7), ("a", "*", 4), ("*", "x", 3), ("*", "y", 2), ("a", "x", 1)]
    for kind, queue, num in rows:
        sql = "INSERT INTO /* schema */millhand_job_stats VALUES (60, $1, $2, $3, $4, 0, 0, 0, 0, 0, '{}', '{}', 1)"
        at = now.replace(second=0, microsecond=0)
        await schema_driver.pool.fetch(qualified(sql, schema_driver.pool), [at, kind, queue, num])
    database = WebDatabase(schema_driver, SystemClock(), is_owner=False)
    users = [
        User(name="all"),
        User(name="queues", queues=("x", "y")),
        User(name="kinds", kinds=("a",)),
        User(name="both", queues=("x",), kinds=("a",)),
        User(name="none", queues=()),
    ]

    seen = [(await load_series(database, user, now, range=range_of("1h"))).total.completed for user in users]
    of_x = [
        (await load_series(database, user, now, range=range_of("1h"), queue="x")).total.completed
        for user in users
    ]

    assert (seen, of_x) == ([7, 5, 4, 1, 0], [3, 3, 1, 1, 0])


async def test_sum_of_a_user_has_all_the_queues_and_kinds(schema_driver: AsyncpgDriver) -> None:
    """A user of 21 queues and 21 kinds gets the sum of all of them, with percentiles; a name given twice counts once."""
    now = datetime.now(UTC)
    stats = """
        INSERT INTO /* schema */millhand_job_stats
        SELECT 60, date_trunc('minute', $1::timestamptz), kind, queue, 1, 2, 3, 4, 5, 6, '{1}', '{0,1}', 1
        FROM generate_series(1, 22) AS n, LATERAL (
            VALUES ('k' || n, 'q' || n), ('*', 'q' || n), ('k' || n, '*')
        ) AS given (kind, queue)
    """
    await schema_driver.pool.fetch(qualified(stats, schema_driver.pool), [now])
    database = WebDatabase(schema_driver, SystemClock(), is_owner=False)
    queues, kinds = [tuple(f"{letter}{n}" for n in range(1, 22)) for letter in "qk"]
    users = [
        User(name="queues", queues=(*queues, "q1")),
        User(name="kinds", kinds=kinds),
        User(name="both", queues=queues, kinds=kinds),
    ]

    totals = [(await load_series(database, user, now, range=range_of("1h"))).total for user in users]

    assert [
        (one.completed, one.cancelled, one.discarded, one.failed, one.wait.p50, one.run.p50) for one in totals
    ] == [(21, 42, 63, 84, 0.0005, 0.0015)] * 3
