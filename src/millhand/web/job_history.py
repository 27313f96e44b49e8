"""The attempts of a range of time, interval by interval, and their charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.store.job_stats import ALL, JobStats, Step, job_stats_list
from millhand.web.chart import Plot, Series, columns, lines
from millhand.web.page import PageRequest

RANGE_DEFAULT = "1h"


class HistoryRange(msgspec.Struct, frozen=True):
    """A range that ends now: its name in a URL, its length, and the length of its intervals."""

    name: str
    length: timedelta
    step: Step


RANGES = {
    one.name: one
    for one in (
        HistoryRange("1h", timedelta(hours=1), Step.MINUTE),
        HistoryRange("6h", timedelta(hours=6), Step.MINUTE),
        HistoryRange("1d", timedelta(days=1), Step.HOUR),
        HistoryRange("7d", timedelta(days=7), Step.HOUR),
        HistoryRange("30d", timedelta(days=30), Step.DAY),
        HistoryRange("90d", timedelta(days=90), Step.DAY),
    )
}


class HistoryPoint(msgspec.Struct, frozen=True, kw_only=True):
    """
    The attempts that ended within one interval; `failed` ones are retried.

    Waits last from due to fetched, runs from fetched to the end, in milliseconds; None without a job that ended.
    """

    began_at: datetime
    completed: int
    failed: int
    discarded: int
    cancelled: int
    wait_p50_ms: float | None
    wait_p95_ms: float | None
    run_p50_ms: float | None
    run_p95_ms: float | None


class JobHistory(msgspec.Struct, frozen=True, kw_only=True):
    """
    The intervals of a range, oldest first, without gaps.

    `is_estimated` says that some intervals had so many jobs that only a part was read.
    """

    range: str
    step_seconds: int
    points: tuple[HistoryPoint, ...]
    is_estimated: bool

    @property
    def num_completed(self) -> int:
        return sum(point.completed for point in self.points)

    @property
    def num_errors(self) -> int:
        return sum(point.failed + point.discarded for point in self.points)


def range_of(name: str | None) -> HistoryRange:
    """Return the range of a name, the last hour for none. Raises: ValueError."""
    try:
        return RANGES[name or RANGE_DEFAULT]
    except KeyError:
        raise ValueError(f"range must be {', '.join(RANGES)}, got {name!r}") from None


async def load_history(
    request: PageRequest, asked: HistoryRange, *, kind: str = ALL, queue: str = ALL
) -> JobHistory | None:
    """
    Load the attempts of a kind, a queue, or all.

    None before migration 7 of line millhand, and for a user whose limits do not include what was asked for.
    """
    user = request.user
    sees_kind = user.kinds is None or (kind != ALL and user.sees_kind(kind))
    sees_queue = user.queues is None or (queue != ALL and user.sees_queue(queue))
    if not (sees_kind and sees_queue) or not await request.database.has_audit_table():
        return None
    since = asked.step.floor(request.now - asked.length) + asked.step.length
    rows = await request.database.run(
        job_stats_list(asked.step, since=since, until=request.now, kind=kind, queue=queue)
    )
    by_start = {row.began_at: row for row in rows}
    starts = asked.step.range(since, request.now)
    empty = JobStats(began_at=since, kind=kind, queue=queue)
    return JobHistory(
        range=asked.name,
        step_seconds=int(asked.step),
        points=tuple(_point(at, by_start.get(at, empty)) for at in starts),
        is_estimated=any(row.share < 1 for row in rows),
    )


def _point(at: datetime, row: JobStats) -> HistoryPoint:
    return HistoryPoint(
        began_at=at,
        completed=row.completed,
        failed=row.failed,
        discarded=row.discarded,
        cancelled=row.cancelled,
        wait_p50_ms=row.wait_percentile_ms(50),
        wait_p95_ms=row.wait_percentile_ms(95),
        run_p50_ms=row.run_percentile_ms(50),
        run_p95_ms=row.run_percentile_ms(95),
    )


def attempts_plot(history: JobHistory) -> Plot:
    """Return the chart of attempts by outcome."""
    outcomes = (
        ("completed", "completed", lambda point: point.completed),
        ("failed, retried", "retryable", lambda point: point.failed),
        ("discarded", "discarded", lambda point: point.discarded),
        ("cancelled", "cancelled", lambda point: point.cancelled),
    )
    unit = {60: "minute", 3_600: "hour", 86_400: "day"}[history.step_seconds]
    return columns(f"Attempts by {unit}", _instants(history), [_series(history, *one) for one in outcomes])


def waits_plot(history: JobHistory) -> Plot:
    """Return the chart of how long jobs waited from due to fetched."""
    return lines(
        "Time from due to fetched",
        _instants(history),
        [
            _series(history, "95th percentile", "2", lambda point: _seconds(point.wait_p95_ms)),
            _series(history, "median", "1", lambda point: _seconds(point.wait_p50_ms)),
        ],
        is_seconds=True,
    )


def runs_plot(history: JobHistory) -> Plot:
    """Return the chart of how long attempts ran."""
    return lines(
        "Time from fetched to the end",
        _instants(history),
        [
            _series(history, "95th percentile", "2", lambda point: _seconds(point.run_p95_ms)),
            _series(history, "median", "1", lambda point: _seconds(point.run_p50_ms)),
        ],
        is_seconds=True,
    )


def _series(
    history: JobHistory, name: str, tone: str, value: Callable[[HistoryPoint], float | None]
) -> Series:
    return Series(name=name, tone=tone, values=tuple(map(value, history.points)))


def _instants(history: JobHistory) -> Sequence[datetime]:
    return [point.began_at for point in history.points]


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000
