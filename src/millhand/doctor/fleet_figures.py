"""The figures for the verdict, from the history and from what runs now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from millhand.core.client_row import ClientState
from millhand.db.health import job_get_table_state, job_list_longest_running
from millhand.doctor.fleet_verdict import (
    NUM_ERRORS_MIN,
    RECENT,
    RUN_MIN,
    WAIT_MIN,
    Figures,
    KindFigures,
    QueueFigures,
    RunningFigures,
    UnworkedFigures,
    Verdict,
    verdict_of,
)
from millhand.doctor.periodic_figures import periodic_figures
from millhand.engine.fleet import Fleet, Runner
from millhand.engine.queue_report import QueueReport, QueueWaitReason
from millhand.engine.store.leader import LeaderRole
from millhand.engine.store.periodic_job import PeriodicRun
from millhand.history.job_stats import (
    ALL,
    JobStats,
    QueueCount,
    Step,
    job_stats_count_by_kind,
    job_stats_count_by_queue,
    job_stats_list_of_kinds,
    same_hours,
    summed,
)
from millhand.history.queue_depth import QueueDepth, queue_depth_list_at
from millhand.history.store import history_get

# How many of the jobs that have run for longest are compared with their kind.
NUM_RUNNING = 50
PERCENT = 95


class Limits(Protocol):
    """What is asked about: all jobs, or those that a user of the web page may see. None is no limit."""

    @property
    def queues(self) -> tuple[str, ...] | None: ...

    @property
    def kinds(self) -> tuple[str, ...] | None: ...

    def sees(self, *, queue: str, kind: str) -> bool:
        """Return whether a job of this queue and kind is within the limits."""
        ...


class NoLimits(msgspec.Struct, frozen=True):
    """All jobs."""

    queues: None = None
    kinds: None = None

    def sees(self, *, queue: str, kind: str) -> bool:
        """Return True."""
        del queue, kind
        return True


class _Scope(msgspec.Struct, frozen=True):
    """The database, the limits, and the time."""

    runner: Runner
    limits: Limits
    now: datetime


async def load_verdict(
    runner: Runner,
    limits: Limits,
    now: datetime,
    *,
    fleet: Fleet,
    has_history: bool,
    reports: Sequence[QueueReport],
    periodic: Sequence[PeriodicRun],
    completed_retention: timedelta | None = None,
) -> Verdict:
    """
    Load the verdict about what is within the limits; `reports` are of the queues within them.

    `periodic` are the last runs of all periodic jobs. `completed_retention` is the one of this program's settings. It counts
    if a client in Python leads, because all of these have the same settings.
    """
    figures = await load_figures(runner, limits, now, fleet=fleet, has_history=has_history, reports=reports)
    seen = [run for run in periodic if limits.sees(queue=run.queue, kind=run.kind)]
    return verdict_of(
        msgspec.structs.replace(
            figures,
            periodic=periodic_figures(seen, now),
            completed_retention=completed_retention if is_led_by_ours(fleet) else None,
        )
    )


def is_led_by_ours(fleet: Fleet) -> bool:
    """Return whether a registered client, so one in Python, deletes old jobs."""
    return any(client.is_leader and client.state is ClientState.WORKING for client in fleet.clients)


async def load_figures(
    runner: Runner,
    limits: Limits,
    now: datetime,
    *,
    fleet: Fleet,
    has_history: bool,
    reports: Sequence[QueueReport],
) -> Figures:
    """Load the figures. Without the tables of the history, nothing is known of kinds and of what is usual."""
    scope = _Scope(runner, limits, now)
    table = await runner.run(job_get_table_state())
    history = await runner.run(history_get()) if has_history else None
    oldest_at = table.oldest_completed_at
    return Figures(
        kinds=await _kinds(scope) if has_history else (),
        queues=await _queues(scope, reports, has_history=has_history),
        unworked=tuple(_unworked(reports)),
        unresponsive=[
            (client.id, now - client.last_seen_at)
            for client in fleet.clients
            if client.state is ClientState.UNRESPONSIVE
        ],
        vacant=_vacant(fleet),
        running=await _running(scope, has_history=has_history),
        oldest_completed=None if oldest_at is None else now - oldest_at,
        num_dead=table.num_dead,
        num_live=table.num_live,
        history_age=None if history is None or not _is_busy(reports) else now - history.counted_to,
    )


async def _kinds(scope: _Scope) -> list[KindFigures]:
    """Return the attempts of the kinds and queues within the limits: of the last minutes, and of the usual hours."""
    now = scope.now
    recent = await _counts(scope, Step.MINUTE, Step.MINUTE.range(now - RECENT, now))
    # Most of the time no kind fails often enough to be compared.
    is_compared = any(num_errors >= NUM_ERRORS_MIN for _, num_errors in recent.values())
    usual = await _counts(scope, Step.HOUR, same_hours(now)) if is_compared else {}
    figures = []
    for kind, (num_attempts, num_errors) in recent.items():
        usual_attempts, usual_errors = usual.get(kind, (0, 0))
        figures.append(
            KindFigures(
                kind=kind,
                num_attempts=num_attempts,
                num_errors=num_errors,
                usual_attempts=usual_attempts,
                usual_errors=usual_errors,
            )
        )
    return figures


async def _counts(scope: _Scope, step: Step, began_ats: Sequence[datetime]) -> dict[str, tuple[int, int]]:
    counts: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for queue in _queue_names(scope.limits):
        for row in await scope.runner.run(job_stats_count_by_kind(step, began_ats, queue=queue)):
            if scope.limits.kinds is None or row.kind in scope.limits.kinds:
                num_attempts, num_errors = counts[row.kind]
                counts[row.kind] = (num_attempts + row.num_attempts, num_errors + row.num_errors)
    return counts


def _queue_names(limits: Limits) -> tuple[str, ...]:
    return limits.queues if limits.queues is not None else (ALL,)


async def _queues(scope: _Scope, reports: Sequence[QueueReport], *, has_history: bool) -> list[QueueFigures]:
    runner, now = scope.runner, scope.now
    before: list[QueueDepth] = []
    usual: list[QueueDepth] = []
    ended: dict[str, QueueCount] = {}
    # Most of the time no queue is behind, so that nothing is compared.
    oldest_ats = [report.oldest_available_at for report in reports]
    if has_history and any(at is not None and now - at >= WAIT_MIN for at in oldest_ats):
        names, began = [report.name for report in reports], Step.MINUTE.floor(now - RECENT)
        # The minute has a row of all queues together if it was recorded.
        before = await runner.run(queue_depth_list_at(Step.MINUTE, [began], queues=[*names, ALL]))
        usual = await runner.run(queue_depth_list_at(Step.HOUR, same_hours(now), queues=names))
        minutes = Step.MINUTE.range(now - RECENT, now)
        ended = await runner.run(job_stats_count_by_queue(Step.MINUTE, minutes, queues=names))
    num_before = {depth.queue: depth.available for depth in before}
    usual_oldest = _longest(usual)
    return [
        QueueFigures(
            name=report.name,
            num_available=report.num_available,
            num_waiting=report.num_waiting or 0,
            is_paused=report.paused_at is not None,
            oldest=None if report.oldest_available_at is None else now - report.oldest_available_at,
            usual_oldest=usual_oldest.get(report.name),
            num_before=num_before.get(report.name, 0) if before else None,
            num_ended=ended[report.name].num_attempts if report.name in ended else 0,
        )
        for report in reports
    ]


def _longest(depths: Iterable[QueueDepth]) -> dict[str, timedelta]:
    """Return the longest wait of each queue."""
    longest: dict[str, timedelta] = {}
    for depth in depths:
        wait = timedelta(milliseconds=depth.oldest_ms)
        longest[depth.queue] = max(wait, longest.get(depth.queue, wait))
    return longest


async def _running(scope: _Scope, *, has_history: bool) -> list[RunningFigures]:
    """Return the jobs that have run for longest, and long enough to be compared with their kinds."""
    jobs = [
        job
        for job in await scope.runner.run(job_list_longest_running(limit=NUM_RUNNING))
        if scope.now - job.attempted_at > RUN_MIN and scope.limits.sees(queue=job.queue, kind=job.kind)
    ]
    usual: defaultdict[str, list[JobStats]] = defaultdict(list)
    kinds = {job.kind for job in jobs}
    for queue in _queue_names(scope.limits) if has_history and kinds else ():
        query = job_stats_list_of_kinds(kinds, Step.HOUR, same_hours(scope.now), queue=queue)
        for row in await scope.runner.run(query):
            usual[row.kind].append(row)
    percentiles = {kind: _percentile(rows) for kind, rows in usual.items()}
    return [
        RunningFigures(
            job_id=job.id,
            kind=job.kind,
            running_for=scope.now - job.attempted_at,
            usual=percentiles.get(job.kind),
        )
        for job in jobs
    ]


def _percentile(rows: Sequence[JobStats]) -> timedelta | None:
    ms = summed(rows, began_at=rows[0].began_at).run_percentile_ms(PERCENT)
    return None if ms is None else timedelta(milliseconds=ms)


def _unworked(reports: Sequence[QueueReport]) -> Iterable[UnworkedFigures]:
    for report in reports:
        if report.limit is QueueWaitReason.NO_CLIENT:
            yield UnworkedFigures(queue=report.name, kind=None)
        else:
            for kind in report.unknown_kinds or ():
                yield UnworkedFigures(queue=report.name, kind=kind)


def _vacant(fleet: Fleet) -> list[LeaderRole]:
    """Return the roles that no client has: River's if any client works, the periodic one if one of Millhand's does."""
    working = [
        client for client in fleet.clients if client.state in (ClientState.WORKING, ClientState.UNREGISTERED)
    ]
    registered = [client for client in working if client.state is ClientState.WORKING]
    expected = {LeaderRole.RIVER: working, LeaderRole.PERIODIC: registered}
    return [role for role, row in fleet.leaders.items() if row is None and expected[role]]


def _is_busy(reports: Sequence[QueueReport]) -> bool:
    """Return whether there are unfinished jobs; without any, the history's writer rests."""
    return any(
        report.num_available or report.num_running or report.num_retryable or report.num_scheduled
        for report in reports
    )
