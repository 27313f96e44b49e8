"""
The verdicts of probes, as plain functions of what was observed.

    startup   503 until the worker has started, then 200 until its process ends
    ready     200 while it works and the database answers; of several databases, at least one
    live      503 only if the event loop hangs; neither an outage of the database nor a stop makes it fail
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import msgspec


class WorkerState(enum.Enum):
    """What a worker process does."""

    STARTING = "starting"
    WORKING = "working"
    STOPPING = "stopping"


class Verdict(msgspec.Struct, frozen=True):
    """The answer to a probe, with a line that gives the reason."""

    is_ok: bool
    line: str


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a worker process at one moment; `away` has those of several databases that do not answer."""

    state: WorkerState
    is_started: bool
    is_database_reachable: bool
    loop_seconds: float  # how long ago the event loop ran
    away: Sequence[str] = ()


class ProcessAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one of several worker processes answered.

    Attributes:
        verdict: Its answer, or None if none came in time.
        has_answered: Whether this process has answered before.
        unanswered_seconds: For how long it has given no answer.
    """

    verdict: Verdict | None
    has_answered: bool = True
    unanswered_seconds: float = 0.0


OK = Verdict(is_ok=True, line="ok")


def startup(health: WorkerHealth) -> Verdict:
    """Return whether the worker has started; a stop does not change it."""
    return OK if health.is_started else _failed("starting")


def ready(health: WorkerHealth) -> Verdict:
    """Return whether the worker works and its database answers, or one of several; the line names the others."""
    if health.state is not WorkerState.WORKING:
        return _failed(health.state.value)
    away = f"database unreachable{''.join(f' {name}' for name in health.away)}"
    if not health.is_database_reachable:
        return _failed(away)
    return Verdict(is_ok=True, line=f"ok; {away}") if health.away else OK


def is_hung(health: WorkerHealth, limit_seconds: float) -> bool:
    return health.loop_seconds > limit_seconds


def live(health: WorkerHealth, limit_seconds: float, position: str) -> Verdict:
    """Return whether the event loop ran within `limit_seconds`; `position` is the line at which it hangs."""
    if not is_hung(health, limit_seconds):
        return OK
    return _failed(f"event loop hangs for {health.loop_seconds:.1f} s at {position}")


# Several processes under one supervisor, by number; a process that is being restarted has no answer here.


def all_live(answers: Mapping[int, ProcessAnswer], limit_seconds: float) -> Verdict:
    """
    Return whether no process hangs.

    A process that does not answer counts as hung after `limit_seconds`, as its event loop would. One that has never
    answered is starting, and the supervisor itself restarts one that exits.
    """
    lines = []
    for number, answer in sorted(answers.items()):
        if answer.verdict is not None and not answer.verdict.is_ok:
            lines.append(f"process {number}: {answer.verdict.line}")
        elif answer.verdict is None and answer.has_answered and answer.unanswered_seconds > limit_seconds:
            lines.append(f"process {number}: no answer for {answer.unanswered_seconds:.1f} s")
    return _joined(lines)


def all_ready(answers: Mapping[int, ProcessAnswer], numbers: Sequence[int]) -> Verdict:
    """Return whether each of `numbers` answered that it is ready; also for the start."""
    lines = []
    for number in numbers:
        answer = answers.get(number)
        if answer is None:
            lines.append(f"process {number}: not running")
        elif answer.verdict is None:
            lines.append(f"process {number}: {'no answer' if answer.has_answered else 'starting'}")
        elif not answer.verdict.is_ok:
            lines.append(f"process {number}: {answer.verdict.line}")
    return _joined(lines)


def _joined(lines: Sequence[str]) -> Verdict:
    return _failed("; ".join(lines)) if lines else OK


def _failed(line: str) -> Verdict:
    return Verdict(is_ok=False, line=line)
