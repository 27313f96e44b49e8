"""The overview: whether the fleet is healthy, and if not, what is wrong, since when, and what is usual."""

from __future__ import annotations

import asyncio

import msgspec

from millhand.doctor.fleet_verdict import Verdict
from millhand.engine.queue_report import QueueReport
from millhand.history.series import RANGES, HistorySeries, load_series
from millhand.shells.web.page import PageRequest
from millhand.web.error_lines import ErrorLine, load_lines
from millhand.web.job_search import Count
from millhand.web.summary import load_summary

GROUPS_MAX = 5


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the overview shows.

    Attributes:
        verdict: The findings of all checks.
        counts: How many jobs of these queues are available, running, retryable and scheduled.
        waiting: How many jobs wait for slots of their queues' limits; None if no queue has one.
        slots: How many jobs the registered clients run at once.
        num_clients: How many clients work, in any language.
        queues: The queues by name.
        history: The attempts of the last hour.
        errors: The groups of errors of the last hour and of jobs that wait for a retry.
    """

    verdict: Verdict
    counts: tuple[Count, ...]
    waiting: Count | None = None
    slots: int
    num_clients: int
    queues: tuple[QueueReport, ...]
    history: HistorySeries
    errors: tuple[ErrorLine, ...]


async def load(request: PageRequest) -> Overview:
    """Load the overview."""
    database, user = request.database, request.user
    summary, history, errors = await asyncio.gather(
        load_summary(database, user, request.now),
        load_series(database, user, request.now, range=RANGES[0]),
        load_lines(request, RANGES[0], limit=GROUPS_MAX),
    )
    return Overview(
        verdict=summary.verdict,
        counts=summary.counts,
        waiting=summary.waiting,
        slots=sum(report.slots or 0 for report in summary.queues),
        num_clients=summary.num_clients,
        queues=summary.queues,
        history=history,
        errors=tuple(errors),
    )
