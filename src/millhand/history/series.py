"""Attempts and durations over time, for charts and tables: points of equal length, empty ones included."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec

from millhand.engine.store.audit import audit_get_shape
from millhand.history.job_stats import ALL, JobStats, Step, job_stats_list, job_stats_list_sums, summed
from millhand.history.store import HistoryState, history_get
from millhand.shells.settings.web_user import User, within
from millhand.shells.web.database import WebDatabase

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class HistoryRange(msgspec.Struct, frozen=True, kw_only=True):
    """A length of time up to now: the intervals that are read, and the length of a point."""

    name: str
    label: str
    length: timedelta
    step: Step
    width: timedelta


RANGES: tuple[HistoryRange, ...] = (
    HistoryRange(name="1h", label="1 hour", length=HOUR, step=Step.MINUTE, width=MINUTE),
    HistoryRange(name="6h", label="6 hours", length=6 * HOUR, step=Step.MINUTE, width=5 * MINUTE),
    HistoryRange(name="24h", label="24 hours", length=DAY, step=Step.TEN_MINUTES, width=10 * MINUTE),
    HistoryRange(name="7d", label="7 days", length=7 * DAY, step=Step.HOUR, width=HOUR),
    HistoryRange(name="30d", label="30 days", length=30 * DAY, step=Step.HOUR, width=6 * HOUR),
    HistoryRange(name="90d", label="90 days", length=90 * DAY, step=Step.DAY, width=DAY),
)
_BY_NAME = {one.name: one for one in RANGES}


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in seconds; None without jobs."""

    p50: float | None
    p95: float | None
    p99: float | None


class HistoryPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts that ended within one point; `failed` ones are retried. Below 1, `share` means estimated numbers."""

    began_at: datetime
    completed: int
    cancelled: int
    discarded: int
    failed: int
    wait: Durations
    run: Durations
    share: float


class HistorySeries(msgspec.Struct, frozen=True, kw_only=True):
    """
    A kind, a queue or all of them over time.

    `total` is of the whole range. All minutes up to `counted_to` are counted; None without the tables of the history, or
    before the first pass of its writer.
    """

    range: str
    points: tuple[HistoryPoint, ...]
    total: HistoryPoint
    counted_to: datetime | None


def range_of(name: str) -> HistoryRange:
    """Return the range of a name. Raises: ValueError."""
    if (found := _BY_NAME.get(name)) is None:
        raise ValueError(f"range must be one of {', '.join(_BY_NAME)}, got {name!r}")
    return found


async def load_series(
    database: WebDatabase,
    user: User,
    now: datetime,
    *,
    range: HistoryRange,
    kind: str | None = None,
    queue: str | None = None,
) -> HistorySeries:
    """Load a kind and queue, or the sum of all that the user sees."""
    if not await database.has(audit_get_shape):  # of the same migration
        return series_of([], range, now, None)
    state = await database.run(history_get())
    kinds, queues, since = _names(kind, user.kinds), _names(queue, user.queues), _begin(range, now)
    if len(kinds) == len(queues) == 1:
        query = job_stats_list(range.step, since=since, until=now, kind=kinds[0], queue=queues[0])
    else:
        query = job_stats_list_sums(range.step, since=since, until=now, kinds=kinds, queues=queues)
    rows = await database.run(query)
    return series_of(rows, range, now, state)


def series_of(
    rows: Iterable[JobStats], range: HistoryRange, now: datetime, state: HistoryState | None
) -> HistorySeries:
    """Return the points of a range that ends with `now`. What is not counted yet has no point, because it is not zero."""
    begin, given = _begin(range, now), list(rows)
    end = now if state is None else min(now, state.counted_to)
    by_point: defaultdict[datetime, list[JobStats]] = defaultdict(list)
    for row in given:
        by_point[_floor(row.began_at, range.width)].append(row)
    instants = [begin + number * range.width for number in _numbers(begin, end, range.width)]
    return HistorySeries(
        range=range.name,
        points=tuple(_point(by_point[at], at) for at in instants),
        total=_point(given, begin),
        counted_to=None if state is None else state.counted_to,
    )


def _names(asked: str | None, allowed: tuple[str, ...] | None) -> tuple[str, ...]:
    names = within(None if asked is None else [asked], allowed)
    return (ALL,) if names is None else tuple(dict.fromkeys(names))


def _point(rows: list[JobStats], at: datetime) -> HistoryPoint:
    stats = summed(rows, began_at=at)
    wait, run = (
        Durations(**{f"p{percent}": _seconds(percentile(percent)) for percent in (50, 95, 99)})
        for percentile in (stats.wait_percentile_ms, stats.run_percentile_ms)
    )
    return HistoryPoint(
        began_at=at,
        completed=stats.completed,
        cancelled=stats.cancelled,
        discarded=stats.discarded,
        failed=stats.failed,
        wait=wait,
        run=run,
        share=stats.share,
    )


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000


def _begin(range: HistoryRange, now: datetime) -> datetime:
    """Return the start of the first point; the last point contains `now`."""
    return _floor(now, range.width) + range.width - range.length


def _floor(at: datetime, width: timedelta) -> datetime:
    seconds = width.total_seconds()
    return datetime.fromtimestamp(at.timestamp() // seconds * seconds, UTC)


def _numbers(begin: datetime, end: datetime, width: timedelta) -> Iterable[int]:
    return range(max(0, math.ceil((end - begin) / width)))
