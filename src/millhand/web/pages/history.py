"""The history: attempts, waits and runs of a range, and the kinds and queues that they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

import msgspec

from millhand.store.job_stats import (
    ALL,
    JobStats,
    Step,
    job_stats_list_by_kind,
    job_stats_list_by_queue,
    summed,
)
from millhand.web.history_series import RANGES, HistoryRange, HistorySeries, load_series, range_of
from millhand.web.page import PageRequest

ROWS_MAX = 50
# Of each kind or queue; a statement returns at most 2,000 rows.
MINUTES_AT_ONCE = 10


class HistoryLine(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts of one kind or queue in a range. Times are in milliseconds."""

    name: str
    num_attempts: int
    num_errors: int
    wait_p95_ms: float | None
    run_p50_ms: float | None
    run_p95_ms: float | None


class HistoryPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    The history of a range, of one kind or queue if one is given.

    `by_kind` and `by_queue` have those with most attempts, of what the user sees. Without `is_recorded`, run `millhand
    migrate up`.
    """

    history: HistorySeries
    ranges: tuple[str, ...]
    range: str
    kind: str | None
    queue: str | None
    by_kind: tuple[HistoryLine, ...]
    by_queue: tuple[HistoryLine, ...]
    is_recorded: bool


async def load(request: PageRequest) -> HistoryPage:
    """Load the history. Raises: ValueError for an unknown range."""
    database, user = request.database, request.user
    asked = range_of(request.query.get("range", RANGES[0].name))
    kind, queue = request.query.get("kind") or None, request.query.get("queue") or None
    history = await load_series(database, user, request.now, range=asked, kind=kind, queue=queue)
    by_kind: tuple[HistoryLine, ...] = ()
    by_queue: tuple[HistoryLine, ...] = ()
    is_recorded = await database.has_audit_table()  # of the same migration
    if is_recorded:
        if kind is None and (queue is not None or user.queues is None) and user.sees_queue(queue or ALL):
            queries = [
                job_stats_list_by_kind(step, starts, queue=queue or ALL)
                for step, starts in _intervals(request, asked)
            ]
            rows = [row for query in queries for row in await database.run(query)]
            by_kind = _lines([row for row in rows if user.sees_kind(row.kind)], "kind")
        if queue is None and (kind is not None or user.kinds is None) and user.sees_kind(kind or ALL):
            queries = [
                job_stats_list_by_queue(step, starts, kind=kind or ALL)
                for step, starts in _intervals(request, asked)
            ]
            rows = [row for query in queries for row in await database.run(query)]
            by_queue = _lines([row for row in rows if user.sees_queue(row.queue)], "queue")
    return HistoryPage(
        history=history,
        ranges=tuple(one.name for one in RANGES),
        range=asked.name,
        kind=kind,
        queue=queue,
        by_kind=by_kind,
        by_queue=by_queue,
        is_recorded=is_recorded,
    )


def _intervals(request: PageRequest, asked: HistoryRange) -> Iterator[tuple[Step, list[datetime]]]:
    """
    Yield the intervals of the range, few enough for one statement that reads them for each kind or queue.

    The leader adds up hours and days every five minutes, so the last hour is read by minutes.
    """
    step = (
        Step.DAY if asked.length.days > 1 else Step.HOUR if asked.length > Step.HOUR.length else Step.MINUTE
    )
    starts = step.range(request.now - asked.length, request.now)
    for first in range(0, len(starts), MINUTES_AT_ONCE):
        yield step, starts[first : first + MINUTES_AT_ONCE]


def _lines(rows: list[JobStats], field: str) -> tuple[HistoryLine, ...]:
    groups: defaultdict[str, list[JobStats]] = defaultdict(list)
    for row in rows:
        groups[getattr(row, field)].append(row)
    lines = [_line(name, summed(of_name, began_at=of_name[0].began_at)) for name, of_name in groups.items()]
    lines.sort(key=lambda line: -line.num_attempts)
    return tuple(lines[:ROWS_MAX])


def _line(name: str, stats: JobStats) -> HistoryLine:
    return HistoryLine(
        name=name,
        num_attempts=stats.num_attempts,
        num_errors=stats.num_errors,
        wait_p95_ms=stats.wait_percentile_ms(95),
        run_p50_ms=stats.run_percentile_ms(50),
        run_p95_ms=stats.run_percentile_ms(95),
    )
