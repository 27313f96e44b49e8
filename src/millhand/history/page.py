"""The history: attempts, waits and runs of a range, and the kinds and queues that they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from functools import partial

import msgspec

from millhand.db.query import Query
from millhand.engine.store.audit import audit_get_shape
from millhand.history.job_stats import (
    ALL,
    JobStats,
    Step,
    job_stats_list_by_kind,
    job_stats_list_by_queue,
    summed,
)
from millhand.history.job_stats import ROWS_MAX as STATS_MAX
from millhand.history.series import RANGES, HistoryRange, HistorySeries, load_series, range_of
from millhand.shells.web.page import PageRequest

ROWS_MAX = 50
# Of each kind or queue, while it is not known how many there are; a statement returns at most `STATS_MAX` rows.
INTERVALS_AT_ONCE = 10


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
    is_recorded = await database.has(audit_get_shape)  # of the same migration
    if (
        is_recorded
        and kind is None
        and (queue is not None or user.queues is None)
        and user.sees_queue(queue or ALL)
    ):
        rows = await _load_rows(request, asked, partial(job_stats_list_by_kind, queue=queue or ALL))
        by_kind = _lines([row for row in rows if user.sees_kind(row.kind)], "kind")
    if (
        is_recorded
        and queue is None
        and (kind is not None or user.kinds is None)
        and user.sees_kind(kind or ALL)
    ):
        rows = await _load_rows(request, asked, partial(job_stats_list_by_queue, kind=kind or ALL))
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


async def _load_rows(
    request: PageRequest, asked: HistoryRange, query: Callable[[Step, list[datetime]], Query[list[JobStats]]]
) -> list[JobStats]:
    """Return the intervals of the range for each kind or queue, in as few statements as can return all of them."""
    rows: list[JobStats] = []
    num_at_once = INTERVALS_AT_ONCE
    for step, starts in intervals_of(asked, request.now):
        for_next = starts
        while for_next:
            found = await request.database.run(query(step, for_next[:num_at_once]))
            rows += found
            for_next = for_next[num_at_once:]
            # Half of what would fit, because other intervals may have more kinds.
            num_names = len({(row.kind, row.queue) for row in found})
            num_at_once = max(INTERVALS_AT_ONCE, STATS_MAX // (2 * max(1, num_names)))
    return rows


def intervals_of(asked: HistoryRange, now: datetime) -> list[tuple[Step, list[datetime]]]:
    """
    Return the starts of the intervals that make up a range, the longest that are current.

    The leader adds up ten minutes with each pass, and hours and days every five minutes. So the last hour is read by ten
    minutes, and by minutes up to the first of them.
    """
    if asked.length > Step.HOUR.length:
        step = Step.DAY if asked.length.days > 1 else Step.HOUR
        return [(step, step.range(now - asked.length, now))]
    begin = Step.MINUTE.floor(now) + Step.MINUTE.length - asked.length
    middle = Step.TEN_MINUTES.floor(begin + Step.TEN_MINUTES.length - Step.MINUTE.length)
    return [
        (Step.MINUTE, Step.MINUTE.range(begin, middle)),
        (Step.TEN_MINUTES, Step.TEN_MINUTES.range(middle, now)),
    ]


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
