"""What one line says of a database, and the overview in full: the verdict, and how many jobs and clients there are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.core.job import JobState
from millhand.doctor.fleet_figures import load_verdict
from millhand.doctor.fleet_verdict import Verdict
from millhand.doctor.periodic_figures import load_runs
from millhand.engine.fleet import load_fleet
from millhand.engine.queue_report import QueueReport, load_reports
from millhand.engine.store.audit import audit_get_shape
from millhand.engine.store.queue_load import COUNTED_MAX, queue_list_names
from millhand.limits.page import waiting_jobs_in
from millhand.shells.settings.web_user import User
from millhand.shells.web.database import WebDatabase
from millhand.web.job_search import Accuracy, Count

QUEUES_MAX = 100
PERIODIC_EVERY = timedelta(minutes=1)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict about a database, and what it is about. `waiting` is as in `Overview`."""

    verdict: Verdict
    counts: tuple[Count, ...]
    waiting: Count | None
    num_clients: int
    queues: tuple[QueueReport, ...]


async def load_summary(database: WebDatabase, user: User, now: datetime) -> Summary:
    """Load what a user may see of it."""
    names = await database.run(queue_list_names(limit=QUEUES_MAX, among=user.queues))
    fleet = await load_fleet(database, now)
    reports = await load_reports(database, fleet, names, waiting=await waiting_jobs_in(database))
    limited = [report.num_waiting for report in reports if report.num_waiting is not None]
    return Summary(
        verdict=await load_verdict(
            database,
            user,
            now,
            fleet=fleet,
            has_history=await database.has(audit_get_shape),  # of the same migration
            reports=reports,
            periodic=await database.recent(load_runs, PERIODIC_EVERY),
            completed_retention=database.completed_retention,
        ),
        counts=_counts(reports),
        waiting=_sum(JobState.PENDING, limited) if limited else None,
        num_clients=sum(client.state in ("working", "unregistered") for client in fleet.clients),
        queues=tuple(reports),
    )


def _counts(reports: Sequence[QueueReport]) -> tuple[Count, ...]:
    """Return the sums over queues. A queue's number above `COUNTED_MAX` stands for any such number."""
    numbers = {
        JobState.AVAILABLE: [report.num_available for report in reports],
        JobState.RUNNING: [report.num_running for report in reports],
        JobState.RETRYABLE: [report.num_retryable for report in reports],
        JobState.SCHEDULED: [report.num_scheduled for report in reports],
    }
    return tuple(_sum(state, of_queues) for state, of_queues in numbers.items())


def _sum(state: JobState, numbers: Sequence[int]) -> Count:
    return Count(
        state,
        sum(min(number, COUNTED_MAX) for number in numbers),
        Accuracy.AT_LEAST if any(number > COUNTED_MAX for number in numbers) else Accuracy.EXACT,
    )
