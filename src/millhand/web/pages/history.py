"""The history: attempts, waits and runs of a range, and the kinds and queues that they belong to."""

from __future__ import annotations

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
from millhand.web.job_history import RANGES, HistoryRange, JobHistory, load_history, range_of
from millhand.web.page import PageRequest

ROWS_MAX = 50


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

    `history` is None before migration 7 of line millhand, and for a user who may not see it. `by_kind` and `by_queue` have
    those with most attempts.
    """

    history: JobHistory | None
    ranges: tuple[str, ...]
    range: str
    kind: str | None
    queue: str | None
    by_kind: tuple[HistoryLine, ...]
    by_queue: tuple[HistoryLine, ...]


async def load(request: PageRequest) -> HistoryPage:
    """Load the history. Raises: ValueError for an unknown range."""
    asked = range_of(request.query.get("range"))
    kind, queue = request.query.get("kind") or None, request.query.get("queue") or None
    history = await load_history(request, asked, kind=kind or ALL, queue=queue or ALL)
    by_kind: tuple[HistoryLine, ...] = ()
    by_queue: tuple[HistoryLine, ...] = ()
    if history is not None:
        starts = _starts(request, asked)
        if kind is None:
            rows = await request.database.run(job_stats_list_by_kind(*starts, queue=queue or ALL))
            by_kind = _lines({row.kind: [] for row in rows}, rows, "kind")
        if queue is None:
            rows = await request.database.run(job_stats_list_by_queue(*starts, kind=kind or ALL))
            by_queue = _lines({row.queue: [] for row in rows}, rows, "queue")
    return HistoryPage(
        history=history,
        ranges=tuple(RANGES),
        range=asked.name,
        kind=kind,
        queue=queue,
        by_kind=by_kind,
        by_queue=by_queue,
    )


def _starts(request: PageRequest, asked: HistoryRange) -> tuple[Step, list[datetime]]:
    """Return intervals of the range that are few enough to be read for each kind: hours, or days."""
    step = Step.DAY if asked.length.days > 1 else Step.HOUR if asked.step is not Step.MINUTE else Step.MINUTE
    return step, step.range(request.now - asked.length, request.now)


def _lines(groups: dict[str, list[JobStats]], rows: list[JobStats], field: str) -> tuple[HistoryLine, ...]:
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
