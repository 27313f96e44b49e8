"""How fast each queue is worked, and when it is empty, from the history of the last minutes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.engine.queue_report import QueueReport
from millhand.engine.store.audit import audit_get_shape
from millhand.history.job_stats import ALL, Step, job_stats_count_by_queue
from millhand.history.queue_depth import DEPTH_MAX, QueueDepth, queue_depth_list_at
from millhand.shells.web.database import WebDatabase

# Long enough for a steady rate, short enough to show a change.
WINDOW = timedelta(minutes=10)
_A_MINUTE = timedelta(minutes=1)


class QueueRate(msgspec.Struct, frozen=True, kw_only=True):
    """
    The change of one queue over the last ten minutes.

    Attributes:
        finished: Jobs that finished, a minute.
        inserted: Jobs that were inserted, a minute: the finished ones, and the growth of the queue. None if it is too long
            to be counted, or has a limit.
        growth: Available jobs that the queue gained, a minute; negative if it shrinks. None as `inserted`.
        empty_in: When no job is available, if the queue shrinks as it does; None if it does not shrink, or is empty.
    """

    finished: float
    inserted: float | None = None
    growth: float | None = None
    empty_in: timedelta | None = None


async def load_rates(
    database: WebDatabase, reports: Sequence[QueueReport], now: datetime
) -> dict[str, QueueRate]:
    """Load the rates of queues by name; empty without the tables of the history, or before its first ten minutes."""
    if not await database.has(audit_get_shape):  # of the same migration
        return {}
    since, names = Step.MINUTE.floor(now - WINDOW), [report.name for report in reports]
    # The minute has a row of all queues together if it was recorded.
    found = await database.run(queue_depth_list_at(Step.MINUTE, [since], queues=[*names, ALL]))
    if not found:
        return {}
    before = {depth.queue: depth for depth in found}
    # The last minute may not be counted yet.
    counted = Step.MINUTE.range(since, Step.MINUTE.floor(now - _A_MINUTE))
    ended = await database.run(job_stats_count_by_queue(Step.MINUTE, counted, queues=names))
    return {
        report.name: rate_of(
            report,
            before=before.get(report.name),
            finished=ended[report.name].num_finished / len(counted) if report.name in ended else 0.0,
            minutes=(now - since) / _A_MINUTE,
        )
        for report in reports
    }


def rate_of(report: QueueReport, *, before: QueueDepth | None, finished: float, minutes: float) -> QueueRate:
    """Return the rate of a queue; `before` is its depth `minutes` ago, None if it had no unfinished job."""
    depths_now = (report.num_available, report.num_retryable, report.num_running, report.num_scheduled)
    # The history does not count jobs that wait for slots of a limit.
    if (
        report.num_waiting is not None
        or max(depths_now) > DEPTH_MAX
        or (before is not None and before.is_capped)
    ):
        return QueueRate(finished=finished)
    depths_before = (
        (0,) if before is None else (before.available, before.retryable, before.running, before.scheduled)
    )
    growth = (report.num_available - depths_before[0]) / minutes
    return QueueRate(
        finished=finished,
        inserted=max(0.0, finished + (sum(depths_now) - sum(depths_before)) / minutes),
        growth=growth,
        empty_in=_A_MINUTE * (report.num_available / -growth) if growth < 0 < report.num_available else None,
    )
