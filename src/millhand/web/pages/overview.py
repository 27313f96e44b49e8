"""The overview: whether the fleet is healthy, and if not, what is wrong, since when, and what is usual."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from millhand.doctor.fleet_figures import load_verdict
from millhand.doctor.fleet_verdict import Verdict
from millhand.fleet import load_fleet
from millhand.job import JobState
from millhand.queue_report import QueueReport, load_reports
from millhand.store.queue_load import COUNTED_MAX, queue_list_names
from millhand.web.error_lines import ErrorLine, load_lines
from millhand.web.history_series import RANGES, HistorySeries, load_series
from millhand.web.job_search import Accuracy, Count
from millhand.web.page import PageRequest

QUEUES_MAX = 100
GROUPS_MAX = 5


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the overview shows.

    Attributes:
        verdict: The findings of all checks.
        counts: How many jobs of these queues are available, running, retryable and scheduled.
        slots: How many jobs the registered clients run at once.
        num_clients: How many clients work, in any language.
        queues: The queues by name.
        history: The attempts of the last hour.
        errors: The groups of errors of the last hour and of jobs that wait for a retry.
    """

    verdict: Verdict
    counts: tuple[Count, ...]
    slots: int
    num_clients: int
    queues: tuple[QueueReport, ...]
    history: HistorySeries
    errors: tuple[ErrorLine, ...]


async def load(request: PageRequest) -> Overview:
    """Load the overview."""
    database, user = request.database, request.user
    names = await database.run(queue_list_names(limit=QUEUES_MAX))
    fleet = await load_fleet(database, request.now)
    reports = await load_reports(database, fleet, [name for name in names if user.sees_queue(name)])
    return Overview(
        verdict=await load_verdict(
            database,
            user,
            request.now,
            fleet=fleet,
            has_history=await database.has_audit_table(),  # of the same migration
            reports=reports,
        ),
        counts=_counts(reports),
        slots=sum(report.slots or 0 for report in reports),
        num_clients=sum(client.state in ("working", "unregistered") for client in fleet.clients),
        queues=tuple(reports),
        history=await load_series(database, user, request.now, range=RANGES[0]),
        errors=tuple(await load_lines(request, RANGES[0], limit=GROUPS_MAX)),
    )


def _counts(reports: Sequence[QueueReport]) -> tuple[Count, ...]:
    """Return the sums over queues. A queue's number above `COUNTED_MAX` stands for any such number."""
    numbers = {
        JobState.AVAILABLE: [report.num_available for report in reports],
        JobState.RUNNING: [report.num_running for report in reports],
        JobState.RETRYABLE: [report.num_retryable for report in reports],
        JobState.SCHEDULED: [report.num_scheduled for report in reports],
    }
    return tuple(
        Count(
            state,
            sum(min(number, COUNTED_MAX) for number in of_queues),
            Accuracy.AT_LEAST if any(number > COUNTED_MAX for number in of_queues) else Accuracy.EXACT,
        )
        for state, of_queues in numbers.items()
    )
