"""The figures for the verdict, from the history and from what runs now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import msgspec

from millhand.client_row import ClientState
from millhand.doctor.fleet_verdict import (
    RECENT,
    Figures,
    KindFigures,
    QueueFigures,
    RunningFigures,
    UnworkedFigures,
    Verdict,
    verdict_of,
)
from millhand.fleet import Fleet, Runner
from millhand.queue_report import QueueLimit, QueueReport
from millhand.store.health import job_get_table_state, job_list_longest_running
from millhand.store.history import history_get
from millhand.store.job_stats import (
    ALL,
    JobStats,
    Step,
    job_stats_list_by_kind,
    job_stats_list_by_queue,
    same_hours,
    summed,
)
from millhand.store.leader import LeaderRole
from millhand.store.queue_depth import QueueDepth, queue_depth_list_at

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
) -> Verdict:
    """Load the verdict about what is within the limits; `reports` are of the queues within them."""
    return verdict_of(
        await load_figures(runner, limits, now, fleet=fleet, has_history=has_history, reports=reports)
    )


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
    usual = await _usual(scope) if has_history else {}
    oldest_at = table.oldest_completed_at
    return Figures(
        kinds=await _kinds(scope, usual) if has_history else (),
        queues=await _queues(scope, reports, has_history=has_history),
        unworked=tuple(_unworked(reports)),
        unresponsive=[
            (client.id, scope.now - client.last_seen_at)
            for client in fleet.clients
            if client.state is ClientState.UNRESPONSIVE
        ],
        vacant=_vacant(fleet),
        running=await _running(scope, usual),
        oldest_completed=None if oldest_at is None else scope.now - oldest_at,
        num_dead=table.num_dead,
        num_live=table.num_live,
        history_age=None if history is None or not _is_busy(reports) else scope.now - history.counted_to,
    )


async def _usual(scope: _Scope) -> dict[str, JobStats]:
    return _by_kind(await _stats(scope, Step.HOUR, minutes=None))


async def _stats(scope: _Scope, step: Step, *, minutes: timedelta | None) -> list[JobStats]:
    """Return intervals by kind within the limits: the last minutes, or the usual hours."""
    now, limits = scope.now, scope.limits
    began_ats = same_hours(now) if minutes is None else step.range(now - minutes, now)
    rows = [
        row
        for queue in (limits.queues if limits.queues is not None else (ALL,))
        for row in await scope.runner.run(job_stats_list_by_kind(step, began_ats, queue=queue))
    ]
    return [row for row in rows if limits.kinds is None or row.kind in limits.kinds]


def _by_kind(rows: Iterable[JobStats]) -> dict[str, JobStats]:
    grouped: defaultdict[str, list[JobStats]] = defaultdict(list)
    for row in rows:
        grouped[row.kind].append(row)
    return {
        kind: summed(of_kind, began_at=of_kind[0].began_at, kind=kind) for kind, of_kind in grouped.items()
    }


async def _kinds(scope: _Scope, usual: dict[str, JobStats]) -> list[KindFigures]:
    recent = _by_kind(await _stats(scope, Step.MINUTE, minutes=RECENT))
    return [
        KindFigures(
            kind=kind,
            num_attempts=stats.num_attempts,
            num_errors=stats.num_errors,
            usual_attempts=usual[kind].num_attempts if kind in usual else 0,
            usual_errors=usual[kind].num_errors if kind in usual else 0,
        )
        for kind, stats in recent.items()
    ]


async def _queues(scope: _Scope, reports: Sequence[QueueReport], *, has_history: bool) -> list[QueueFigures]:
    runner, now = scope.runner, scope.now
    before: list[QueueDepth] = []
    usual: list[QueueDepth] = []
    ended: list[JobStats] = []
    if has_history:
        before = await runner.run(queue_depth_list_at(Step.MINUTE, [Step.MINUTE.floor(now - RECENT)]))
        usual = await runner.run(queue_depth_list_at(Step.HOUR, same_hours(now)))
        minutes = Step.MINUTE.range(now - RECENT, now)
        ended = await runner.run(job_stats_list_by_queue(Step.MINUTE, minutes))
    num_before = {depth.queue: depth.available for depth in before}
    return [
        QueueFigures(
            name=report.name,
            num_available=report.num_available,
            is_paused=report.paused_at is not None,
            oldest=None if report.oldest_available_at is None else now - report.oldest_available_at,
            usual_oldest=max(
                (timedelta(milliseconds=depth.oldest_ms) for depth in usual if depth.queue == report.name),
                default=None,
            ),
            num_before=num_before.get(report.name, 0) if before else None,
            num_ended=sum(row.num_attempts for row in ended if row.queue == report.name),
        )
        for report in reports
    ]


async def _running(scope: _Scope, usual: dict[str, JobStats]) -> list[RunningFigures]:
    jobs = await scope.runner.run(job_list_longest_running(limit=NUM_RUNNING))
    return [
        RunningFigures(
            job_id=job.id,
            kind=job.kind,
            running_for=scope.now - job.attempted_at,
            usual=_percentile(usual.get(job.kind)),
        )
        for job in jobs
        if scope.limits.sees(queue=job.queue, kind=job.kind)
    ]


def _percentile(stats: JobStats | None) -> timedelta | None:
    ms = None if stats is None else stats.run_percentile_ms(PERCENT)
    return None if ms is None else timedelta(milliseconds=ms)


def _unworked(reports: Sequence[QueueReport]) -> Iterable[UnworkedFigures]:
    for report in reports:
        if report.limit is QueueLimit.NO_CLIENT:
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
