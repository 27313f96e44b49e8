"""
Verdicts about clients, queues and jobs, with effects and remedies.

What is wrong is decided by `fleet_verdict`, as for the web page, where that decides it.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import ClientId
from millhand.core.number_text import counted, duration
from millhand.doctor.fleet_verdict import Check, Figures, verdict_of
from millhand.doctor.fleet_verdict import Finding as Fault
from millhand.doctor.fleet_verdict import Level as Severity
from millhand.doctor.store import DiscardedKind
from millhand.engine.fleet import Fleet
from millhand.engine.queue_report import QueueReport
from millhand.engine.store.client import HeldJobs
from millhand.engine.store.leader import LeaderRole
from millhand.shells.doctor.finding import Finding, Found, Level, Unseen

PAUSED_LONG = timedelta(hours=1)
# The leader makes due jobs available within seconds, and leaves out a row that fails for five minutes.
OVERDUE = timedelta(minutes=1)
# A leader rescues the jobs of a dead client within two minutes.
DEAD_FOR = timedelta(minutes=5)
# Jobs of clients without heartbeats are rescued by age, by default after an hour.
OLD_ATTEMPT = timedelta(hours=2)

_LEADERLESS = {
    LeaderRole.RIVER: "Failed jobs are not retried, and finished jobs stay in the table.",
    LeaderRole.PERIODIC: "Periodic jobs do not run, and the jobs of a client that dies stay running.",
}


def leader_findings(figures: Figures) -> Found:
    """Judge whether the leader roles are taken."""
    return [
        Finding(
            level=Level.BROKEN,
            subject=f"leader role {role.value}",
            found=fault.text,
            effect=_LEADERLESS[role],
            remedy=f"{_first_remedy(figures)}Write leader_election = true in [worker] of at least one worker. If it is, "
            "look for `leader election failed` in the log of the workers.",
        )
        for role in figures.vacant
        for fault in _faults(Check.LEADERLESS, Figures(vacant=[role]))
    ]


def _first_remedy(figures: Figures) -> str:
    """Return what to do first: an unresponsive client may be the one that did the work."""
    is_one_unresponsive = any(_faults(Check.UNRESPONSIVE, Figures(unresponsive=figures.unresponsive)))
    return "First see fleet.unresponsive: that client may have done it. " if is_one_unresponsive else ""


def unresponsive_findings(figures: Figures, held: Sequence[HeldJobs] = ()) -> Found:
    """Judge which clients are unresponsive since a short while. `held` are the running jobs."""
    numbers: Counter[ClientId] = Counter()
    for jobs in held:
        numbers[jobs.client_id] += jobs.num_running
    return [
        Finding(
            level=Level.HARMFUL if number else Level.NOTABLE,
            subject=f"client {one[0]}",
            found=fault.text + (f" {_marked(number)} there." if number else ""),
            effect="Its jobs do not run until a leader makes them available to other clients."
            if number
            else "It works none of its queues.",
            remedy="If its log has `event loop blocked`, write that job as a plain function. Else look at its host, and "
            "at the end of its log:",
            commands=("millhand client list",),
        )
        for one in figures.unresponsive
        for fault in _faults(Check.UNRESPONSIVE, Figures(unresponsive=[one]))
        for number in [numbers[one[0]]]
    ]


def _marked(number: int) -> str:
    return f"{counted(number, 'job')} {'is' if number == 1 else 'are'} marked as running"


def version_findings(fleet: Fleet) -> Found:
    """Judge whether the working clients have one version."""
    numbers: dict[str, int] = {}
    for client in fleet.clients:
        if client.state is ClientState.WORKING and client.version is not None:
            numbers[client.version] = numbers.get(client.version, 0) + 1
    if len(numbers) <= 1:
        return []
    shown = ", ".join(f"{version} ({number})" for version, number in sorted(numbers.items()))
    return [
        Finding(
            level=Level.NOTABLE,
            subject="versions",
            found=f"Clients of several versions work: {shown}.",
            effect="None while a deploy goes on. A new feature works only where its version runs.",
            remedy="Finish the deploy, or find the old clients:",
            commands=("millhand client list",),
        )
    ]


def periodic_findings(figures: Figures) -> Found:
    """Judge which regular periodic jobs are late."""
    return [
        Finding(
            level=Level.HARMFUL,
            subject=f"periodic job {one.id}",
            found=_with_usual(fault),
            effect="It does not run.",
            remedy="Configure it in every client that may lead, and look for warnings in the log of the leader:",
            commands=("millhand client list",),
        )
        for one in figures.periodic
        for fault in _faults(Check.MISSED, Figures(periodic=[one]))
    ]


def history_findings(figures: Figures) -> Found:
    """Judge whether the history is current."""
    return [
        Finding(
            level=Level.NOTABLE,
            subject="history",
            found=fault.text,
            effect="The web page compares with old figures.",
            remedy="Look for warnings in the log of the client that leads:",
            commands=("millhand client list",),
        )
        for fault in _faults(Check.HISTORY, Figures(history_age=figures.history_age))
    ]


def unworked_queue_findings(figures: Figures) -> Found:
    """Judge which queues with due jobs no client works."""
    return [
        Finding(
            level=Level.BROKEN,
            subject=f"queue {one.queue}",
            found=fault.text,
            effect="Its jobs wait until a worker of this queue starts.",
            remedy=f"{_first_remedy(figures)}Start a worker of this queue:",
            commands=(f"millhand worker MODULE:CONFIG --queue {shlex.quote(one.queue)}:10",),
        )
        for one in figures.unworked
        if one.kind is None
        for fault in _faults(Check.UNWORKED, Figures(unworked=[one]))
    ]


def unknown_kind_findings(figures: Figures) -> Found:
    """Judge which kinds with due jobs no client of their queue works."""
    return [
        Finding(
            level=Level.BROKEN,
            subject=f"kind {one.kind}",
            found=fault.text,
            effect="Its jobs wait until a worker knows the kind.",
            remedy="Deploy a worker that knows it, or look at its jobs:",
            commands=(
                f"millhand job list --state available --queue {shlex.quote(one.queue)} --kind {shlex.quote(one.kind)}",
            ),
        )
        for one in figures.unworked
        if one.kind is not None
        for fault in _faults(Check.UNWORKED, Figures(unworked=[one]))
    ]


def paused_findings(figures: Figures, reports: Sequence[QueueReport], now: datetime) -> Found:
    """Judge which paused queues have due jobs. A pause of an hour may have been forgotten."""
    paused = {report.name: now - report.paused_at for report in reports if report.paused_at is not None}
    return [
        Finding(
            level=Level.HARMFUL if paused.get(one.name, timedelta(0)) >= PAUSED_LONG else Level.NOTABLE,
            subject=f"queue {one.name}",
            found=fault.text.removesuffix(".") + f". The pause began {duration(paused[one.name])} ago."
            if one.name in paused
            else fault.text,
            effect="They wait until the queue is resumed.",
            remedy="Resume it:",
            commands=(f"millhand queue resume {shlex.quote(one.name)}",),
        )
        for one in figures.queues
        for fault in _faults(Check.PAUSED, Figures(queues=[one]))
    ]


def behind_findings(figures: Figures) -> Found:
    """Judge which queues are behind."""
    return [
        Finding(
            level=Level.HARMFUL,
            subject=f"queue {one.name}",
            found=_with_usual(fault),
            effect="Jobs start late.",
            remedy="Start more workers, or give them more slots:",
            commands=(f"millhand worker MODULE:CONFIG --queue {shlex.quote(one.name)}:50",),
        )
        for one in figures.queues
        for fault in _faults(Check.BEHIND, Figures(queues=[one]))
    ]


def overdue_findings(reports: Sequence[QueueReport], now: datetime) -> Found:
    """Judge in which queues scheduled and failed jobs are due and stay where they are."""
    return [
        Finding(
            level=Level.BROKEN,
            subject=f"queue {one.name}",
            found=f"A scheduled or retryable job of queue {one.name} was due {duration(now - one.next_scheduled_at)} "
            "ago, and is not available.",
            effect="No worker can fetch it.",
            remedy="A leader makes it available: see fleet.leader, or start a worker. If a client leads, look for "
            "warnings in its log:",
            commands=("millhand client list",),
        )
        for one in reports
        if one.next_scheduled_at is not None and now - one.next_scheduled_at > OVERDUE
    ]


def failing_findings(figures: Figures) -> Found:
    """Judge which kinds fail more often than usual."""
    return [
        Finding(
            level=Level.HARMFUL if fault.level is Severity.CRITICAL else Level.NOTABLE,
            subject=f"kind {one.kind}",
            found=_with_usual(fault),
            effect="A failed job runs again later, and is discarded after its last attempt.",
            remedy="Look at the errors:",
            commands=(f"millhand job list --state retryable,discarded --kind {shlex.quote(one.kind)}",),
        )
        for one in figures.kinds
        for fault in _faults(Check.FAILING, Figures(kinds=[one]))
    ]


def slow_findings(figures: Figures) -> Found:
    """Judge which jobs run much longer than their kind does."""
    return [
        Finding(
            level=Level.NOTABLE,
            subject=f"job {one.job_id}",
            found=_with_usual(fault),
            effect="It takes a slot of its client.",
            remedy="Look at it, or end it:",
            commands=(f"millhand job show {one.job_id}", f"millhand job cancel {one.job_id}"),
        )
        for one in figures.running
        for fault in _faults(Check.STUCK, Figures(running=[one]))
    ]


def discarded_findings(discarded: Sequence[DiscardedKind]) -> Found:
    """Name the kinds of jobs that were discarded within a day."""
    return [
        Finding(
            level=Level.NOTABLE,
            subject=f"kind {one.kind}",
            found=f"{counted(one.num_jobs, 'job')} of kind {one.kind} "
            f"{'was' if one.num_jobs == 1 else 'were'} discarded within a day.",
            effect="They failed in their last attempt, and do not run again.",
            remedy="Look at the errors, and run the jobs again once the cause is gone:",
            commands=(
                f"millhand job list --state discarded --kind {shlex.quote(one.kind)}",
                f"millhand job retry --state discarded --kind {shlex.quote(one.kind)}",
            ),
        )
        for one in discarded
    ]


def cleanup_findings(figures: Figures, retention: timedelta | None, *, is_known: bool) -> Found:
    """
    Judge whether old jobs are deleted after `retention`; None is never.

    Unless that `is_known`, it is a default, and the leader may have another one.
    """
    # Dead rows are of server.autovacuum.
    aged = Figures(oldest_completed=figures.oldest_completed, completed_retention=retention)
    faults = list(_faults(Check.CLEANUP, aged))
    if faults and not is_known:
        return [
            Unseen(
                reason="The oldest completed job is older than a day, and the settings do not have the "
                "completed_job_retention of the leader.",
                remedy="Name its configuration:",
                commands=("millhand doctor --deploy MODULE:CONFIG",),
            )
        ]
    return [
        Finding(
            level=Level.HARMFUL,
            subject="table river_job",
            found=fault.text,
            effect="The table grows, and so do its indexes.",
            remedy="See fleet.leader. If a client leads, look for warnings in its log:",
            commands=("millhand client list",),
        )
        for fault in faults
    ]


def stranded_findings(held: Sequence[HeldJobs], fleet: Fleet, now: datetime) -> Found:
    """Judge which jobs are marked as running by clients that are not there."""
    clients = {client.id: client for client in fleet.clients}
    numbers: Counter[ClientId] = Counter()
    for one in held:
        age = None if one.oldest_at is None else now - one.oldest_at
        if age is not None and _is_gone(clients.get(one.client_id), age, now):
            numbers[one.client_id] += one.num_running
    return [
        Finding(
            level=Level.HARMFUL,
            subject=f"client {client_id}",
            found=f"{_marked(number)} by client {client_id}, which does not work.",
            effect="They do not run, and no other client starts them.",
            remedy="A leader makes them available again: see fleet.leader, or start a worker. Or cancel them one by one:",
            commands=("millhand job list --state running",),
        )
        for client_id, number in numbers.items()
    ]


def _is_gone(client: ClientRow | None, age: timedelta, now: datetime) -> bool:
    """Return whether a client is gone for so long that its attempts should have been rescued."""
    if client is None:
        return age > OLD_ATTEMPT
    if client.state in (ClientState.UNRESPONSIVE, ClientState.STOPPED):
        return min(age, now - client.last_seen_at) > DEAD_FOR
    return client.state is ClientState.UNREGISTERED and age > OLD_ATTEMPT


def _faults(check: Check, figures: Figures) -> Iterator[Fault]:
    return (one for one in verdict_of(figures).findings if one.check is check)


def _with_usual(fault: Fault) -> str:
    """Return what was found, and what is usual, if that is known."""
    return fault.text if fault.usual is None else f"{fault.text} Usual: {fault.usual}."
