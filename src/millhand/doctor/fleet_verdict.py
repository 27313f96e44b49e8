"""
The verdict about a fleet: what is wrong, in words, and what is usual at this time.

Each check is a function from figures to findings. A check whose figures are missing finds nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from datetime import timedelta
from urllib.parse import quote, urlencode

import msgspec

from millhand.core.job import ClientId, JobId
from millhand.core.number_text import counted, duration, percent
from millhand.engine.store.leader import LeaderRole

# What `figures` count as now.
RECENT = timedelta(minutes=10)

NUM_ERRORS_MIN = 20
TIMES_USUAL_ERRORS = 3.0
# Without an earlier week to compare with, and the share from which failures are critical.
ERROR_SHARE_UNUSUAL = 0.2
ERROR_SHARE_CRITICAL = 0.5
WAIT_MIN = timedelta(minutes=1)
TIMES_USUAL_WAIT = 10.0
NUM_GROWN_MIN = 100
WAIT_CRITICAL = timedelta(minutes=15)
UNRESPONSIVE_WITHIN = timedelta(minutes=15)
RUN_MIN = timedelta(minutes=1)
TIMES_USUAL_RUN = 20.0
# The leader deletes old jobs every half minute.
CLEANUP_GRACE = timedelta(hours=1)
NUM_DEAD_MIN = 100_000
NUM_DEAD_PER_LIVE = 10
HISTORY_LATE = timedelta(minutes=10)
# A periodic job is late when its last insert is so many intervals and the grace ago, and was removed from its program after
# the latter. A leader is elected within the grace, and the page knows the runs as they were a minute ago at most.
LATE_GRACE = timedelta(minutes=1)
LATE_INTERVALS = 2
GONE_INTERVALS = 10
GONE_MIN = timedelta(days=1)


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"


class Check(enum.StrEnum):
    """What is checked."""

    FAILING = "failing"
    BEHIND = "behind"
    UNWORKED = "unworked"
    UNRESPONSIVE = "unresponsive"
    LEADERLESS = "leaderless"
    PAUSED = "paused"
    STUCK = "stuck"
    MISSED = "missed"
    CLEANUP = "cleanup"
    HISTORY = "history"


class KindFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts of a kind within `RECENT`, and those of the same hours of the last seven days."""

    kind: str
    num_attempts: int
    num_errors: int
    usual_attempts: int = 0
    usual_errors: int = 0


class QueueFigures(msgspec.Struct, frozen=True, kw_only=True):
    """
    The jobs of a queue that are due. `oldest` is how long the oldest has waited; None if none waits.

    `num_before` is how many waited at the beginning of `RECENT`, and `num_ended` how many attempts ended since; None if it
    was not recorded. `num_waiting` is how many jobs wait for slots of a limit. `usual_oldest` is the longest wait in the
    same hours of the last seven days.
    """

    name: str
    num_available: int
    num_waiting: int = 0
    is_paused: bool = False
    oldest: timedelta | None = None
    usual_oldest: timedelta | None = None
    num_before: int | None = None
    num_ended: int | None = None


class UnworkedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Due jobs that no client works: of a kind that no client of the queue knows, or of a queue without clients."""

    queue: str
    kind: str | None


class RunningFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A job that runs. `usual` is its kind's 95th percentile of the last days."""

    job_id: JobId
    kind: str
    running_for: timedelta
    usual: timedelta | None = None


class PeriodicFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A periodic job whose runs were inserted at regular times: how long ago the last one was, and the usual interval."""

    id: str
    inserted_before: timedelta
    interval: timedelta


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the checks know about a fleet; each figure may be missing.

    Attributes:
        kinds: The attempts of each kind.
        queues: The due jobs of each queue.
        unworked: Due jobs that no client works.
        unresponsive: Clients that miss heartbeats and did not stop, and for how long.
        vacant: Leader roles that no client has though clients work.
        running: The jobs that have run for longest.
        periodic: The regular periodic jobs.
        oldest_completed: The age of the oldest completed job.
        completed_retention: After which age completed jobs are deleted; None if that is unknown or never.
        num_dead: Rows of the job table that PostgreSQL has not removed yet.
        num_live: The other rows.
        history_age: How long ago the last counted minute ended.
    """

    kinds: Sequence[KindFigures] = ()
    queues: Sequence[QueueFigures] = ()
    unworked: Sequence[UnworkedFigures] = ()
    unresponsive: Sequence[tuple[ClientId, timedelta]] = ()
    vacant: Sequence[LeaderRole] = ()
    running: Sequence[RunningFigures] = ()
    periodic: Sequence[PeriodicFigures] = ()
    oldest_completed: timedelta | None = None
    completed_retention: timedelta | None = None
    num_dead: int = 0
    num_live: int = 0
    history_age: timedelta | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """
    Something that is wrong, as a sentence.

    `usual` says what is usual, if that is known. `path` is the page that shows more, below the page's own prefix.
    """

    check: Check
    level: Level
    text: str
    usual: str | None = None
    path: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The findings, the worst first, and the worst level."""

    level: Level
    findings: tuple[Finding, ...]


def verdict_of(figures: Figures) -> Verdict:
    """Return the findings of all checks."""
    found = [finding for check in _CHECKS for finding in check(figures)]
    findings = tuple(sorted(found, key=lambda one: one.level is not Level.CRITICAL))
    return Verdict(level=findings[0].level if findings else Level.OK, findings=findings)


def _failing(figures: Figures) -> list[Finding]:
    """Find kinds that fail more than three times as often as usual."""
    return [_failing_finding(one) for one in figures.kinds if _is_failing(one)]


def _is_failing(one: KindFigures) -> bool:
    if one.num_errors < NUM_ERRORS_MIN:
        return False
    share = one.num_errors / max(one.num_attempts, 1)
    if not one.usual_attempts:
        return share >= ERROR_SHARE_UNUSUAL
    return share > TIMES_USUAL_ERRORS * one.usual_errors / one.usual_attempts


def _failing_finding(one: KindFigures) -> Finding:
    share = one.num_errors / max(one.num_attempts, 1)
    usual = one.usual_errors / one.usual_attempts if one.usual_attempts else None
    return Finding(
        check=Check.FAILING,
        level=Level.CRITICAL if share >= ERROR_SHARE_CRITICAL else Level.WARNING,
        text=f"{one.kind} failed in {counted(one.num_errors, 'attempt')} of {one.num_attempts:,} in {duration(RECENT)}, "
        f"which is {percent(share)}.",
        usual=None if usual is None else f"{percent(usual)} at this time of day",
        path=f"/errors?{urlencode({'kind': one.kind})}",
    )


def _behind(figures: Figures) -> list[Finding]:
    """Find queues in which jobs wait unusually long, or in which more jobs become due than end."""
    findings = []
    for one in figures.queues:
        if one.is_paused or one.oldest is None or one.oldest < WAIT_MIN:
            continue
        waits = f"The oldest due job in queue {one.name} has waited for {duration(one.oldest)}"
        if one.usual_oldest is not None and one.oldest > TIMES_USUAL_WAIT * one.usual_oldest:
            text = f"{waits}."
        elif _is_growing(one):
            text = f"{waits}, and {counted(_grown(one), 'job')} more wait than {duration(RECENT)} ago."
        else:
            continue
        usual = (
            None if one.usual_oldest is None else f"up to {duration(one.usual_oldest)} at this time of day"
        )
        level = Level.CRITICAL if one.oldest >= WAIT_CRITICAL else Level.WARNING
        findings.append(
            Finding(check=Check.BEHIND, level=level, text=text, usual=usual, path=_queue_path(one.name))
        )
    return findings


def _grown(one: QueueFigures) -> int:
    return 0 if one.num_before is None else one.num_available - one.num_before


def _is_growing(one: QueueFigures) -> bool:
    """Return whether the queue grew by a number that its clients would need a minute or more for."""
    ended_in_a_minute = (one.num_ended or 0) * timedelta(minutes=1) / RECENT
    return _grown(one) >= max(NUM_GROWN_MIN, ended_in_a_minute)


def _unworked(figures: Figures) -> list[Finding]:
    return [
        Finding(
            check=Check.UNWORKED,
            level=Level.CRITICAL,
            text=f"No client works queue {one.queue}, in which jobs are due."
            if one.kind is None
            else f"No client of queue {one.queue} works kind {one.kind}, of which jobs are due.",
            path=_queue_path(one.queue),
        )
        for one in figures.unworked
    ]


def _unresponsive(figures: Figures) -> list[Finding]:
    """Find clients that became unresponsive lately. Those of yesterday are replaced, or their queues are behind."""
    return [
        Finding(
            check=Check.UNRESPONSIVE,
            level=Level.WARNING,
            text=f"Client {id} has sent no heartbeat for {duration(unseen)} and did not stop.",
            path="/fleet",
        )
        for id, unseen in figures.unresponsive
        if unseen <= UNRESPONSIVE_WITHIN
    ]


_LEADERLESS = {
    LeaderRole.RIVER: "No client leads, so no scheduled or failed job becomes available.",
    LeaderRole.PERIODIC: "No client leads for periodic jobs and for the jobs of dead clients.",
}


def _leaderless(figures: Figures) -> list[Finding]:
    return [
        Finding(check=Check.LEADERLESS, level=Level.CRITICAL, text=_LEADERLESS[role], path="/fleet")
        for role in figures.vacant
    ]


def _paused(figures: Figures) -> list[Finding]:
    return [
        Finding(
            check=Check.PAUSED,
            level=Level.WARNING,
            text=f"Queue {one.name} is paused, and {counted(num_due, 'job')} "
            f"{'is' if num_due == 1 else 'are'} due.",
            path=_queue_path(one.name),
        )
        for one in figures.queues
        if one.is_paused and (num_due := one.num_available + one.num_waiting)
    ]


def _stuck(figures: Figures) -> list[Finding]:
    """Find jobs that run for much longer than their kind does; several are one finding, about the longest."""
    stuck = [
        (one, one.usual)
        for one in figures.running
        if one.usual is not None and one.running_for > max(RUN_MIN, TIMES_USUAL_RUN * one.usual)
    ]
    if not stuck:
        return []
    longest, usual = max(stuck, key=lambda pair: pair[0].running_for)
    text = f"Job {longest.job_id} of kind {longest.kind} has run for {duration(longest.running_for)}."
    path = f"/jobs/{longest.job_id}"
    if len(stuck) > 1:
        text = f"{counted(len(stuck), 'job')} run for much longer than their kinds do. {text}"
        path = f"/jobs?{urlencode({'q': 'state:running'})}"
    return [
        Finding(
            check=Check.STUCK,
            level=Level.WARNING,
            text=text,
            usual=f"95 of 100 jobs of its kind take at most {duration(usual)}",
            path=path,
        )
    ]


def _missed(figures: Figures) -> list[Finding]:
    """Find periodic jobs that no client inserts any more; several are one finding, about the latest."""
    late = [
        one
        for one in figures.periodic
        if LATE_INTERVALS * one.interval + LATE_GRACE < one.inserted_before
        and one.inserted_before <= max(GONE_MIN, GONE_INTERVALS * one.interval)
    ]
    if not late:
        return []
    latest = max(late, key=lambda one: one.inserted_before / one.interval)
    text = f"Periodic job {latest.id} was last inserted {duration(latest.inserted_before)} ago."
    if len(late) > 1:
        text = f"{counted(len(late), 'periodic job')} are late. {text}"
    usual = f"every {duration(latest.interval)}"
    return [Finding(check=Check.MISSED, level=Level.WARNING, text=text, usual=usual, path="/periodic")]


def _cleanup(figures: Figures) -> list[Finding]:
    """Find a job table that grows: old jobs that are not deleted, or dead rows that are not removed."""
    findings = []
    oldest, retention = figures.oldest_completed, figures.completed_retention
    if oldest is not None and retention is not None and oldest > retention + CLEANUP_GRACE:
        text = f"The oldest completed job is {duration(oldest)} old. The leader deletes them after {duration(retention)}."
        findings.append(Finding(check=Check.CLEANUP, level=Level.WARNING, text=text, path="/fleet"))
    if has_many_dead_rows(num_dead=figures.num_dead, num_live=figures.num_live):
        text = (
            f"PostgreSQL keeps {figures.num_dead:,} dead rows of jobs beside {figures.num_live:,} live ones. "
            "A long transaction may hold them."
        )
        findings.append(Finding(check=Check.CLEANUP, level=Level.WARNING, text=text, path="/fleet"))
    return findings


def has_many_dead_rows(*, num_dead: int, num_live: int) -> bool:
    """Return whether PostgreSQL keeps so many dead rows of jobs that fetches become slow."""
    return num_dead > max(NUM_DEAD_MIN, NUM_DEAD_PER_LIVE * num_live)


def _history(figures: Figures) -> list[Finding]:
    age = figures.history_age
    if age is None or age <= HISTORY_LATE:
        return []
    text = f"The history ends {duration(age)} ago, so charts and comparisons are not current."
    return [Finding(check=Check.HISTORY, level=Level.WARNING, text=text, path="/fleet")]


def _queue_path(name: str) -> str:
    return f"/queues/{quote(name, safe='')}"


_CHECKS: tuple[Callable[[Figures], list[Finding]], ...] = (
    _leaderless,
    _unworked,
    _failing,
    _behind,
    _stuck,
    _missed,
    _paused,
    _unresponsive,
    _cleanup,
    _history,
)
