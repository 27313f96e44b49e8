"""The evidence of a chaos run: rows, journals, the lives of its processes, and the faults."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from chaos_dead_jobs import Comparison
from chaos_fleet import Life, Trouble
from chaos_flows import FlowEvidence
from chaos_history import Call
from chaos_journal import Execution
from chaos_limits import Change, Hold
from chaos_migrations import Reset
from chaos_plan import ChaosJob
from chaos_rows import Row
from chaos_schedules import NextRun, ScheduledRun

SINCE = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A run of the periodic job: when it was due and when its row was inserted, in seconds since 1970."""

    due_at: float
    created_at: float


@dataclass(frozen=True, kw_only=True)
class Settled:
    """The row of a completed job: the token of its last fetch, and when that attempt ended; None if it was deleted."""

    token: int
    ended_at: float | None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """
    All evidence of a run. `epoch` is the instant since 1970 at which the monotonic clock was 0.

    `changes` and `holds` are those of limits, by their beginning. `left_behind` is what the tables of limits had at the end.
    `inserts` has the inserts of each job of the plan, and `job_changes` the calls that changed a job, by its id.
    `resets` has the migrations down and up.
    `scheduled_runs` is None for a run without schedules, and `flows` for one without flows.
    """

    answers: Mapping[int, Sequence[str]]
    batches: Sequence[tuple[str, Sequence[int]]]
    began_at: float
    ended_at: float
    epoch: float
    executions: Sequence[Execution]
    faults: Sequence[str]
    lives: Sequence[Life]
    plan: Sequence[ChaosJob]
    rows: Sequence[Row]
    rescued_at: Mapping[tuple[int, int], float]
    ticks: Sequence[Tick]
    tick_seconds: float
    troubles: Sequence[Trouble]
    settled: Mapping[int, Settled] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    holds: Sequence[Hold] = ()
    left_behind: Sequence[str] = ()
    scheduled_runs: Sequence[ScheduledRun] | None = None
    next_runs: Sequence[NextRun] = ()
    dead_jobs: Sequence[Comparison] = ()
    num_dead_jobs_copied: int = 0
    flows: FlowEvidence | None = None
    inserts: Mapping[int, Sequence[Call]] = field(default_factory=dict)
    job_changes: Mapping[int, Sequence[Call]] = field(default_factory=dict)
    resets: Sequence[Reset] = ()
    figures: dict[str, int] = field(default_factory=dict)

    def life(self, name: str) -> Life:
        return next(life for life in self.lives if life.name == name)

    def troubles_of(self, who: int | None) -> list[Trouble]:
        """Return the faults that affected a worker, or all workers for None, by their beginning."""
        return [one for one in self.troubles if one.who in (who, None)]

    def spoiled(self, who: int, began_at: float, ended_at: float) -> bool:
        """Return whether a fault affected a worker at one of these times. Faults of its clock do not count."""
        return any(
            one.began_at <= ended_at and one.ended_at >= began_at and one.name != "clock"
            for one in self.troubles_of(who)
        )

    def done_until(self, who: int, at: float, *, seconds: float, after: float) -> float:
        """
        Return when a worker has done at the latest what it had to do `at`, and takes `seconds` for.

        What is in trouble then is given until `after` from when the trouble is over, and so on.
        """
        until = at + seconds
        for trouble in sorted(self.troubles_of(who), key=lambda one: one.began_at):
            if trouble.name != "clock" and trouble.began_at <= until and trouble.ended_at > at - after:
                until = max(until, trouble.ended_at + after)
        return until


def settled(record: Mapping[str, Any], epoch: float) -> Settled | None:
    """Return the attempt that completed a row; None if it is not completed."""
    if record["state"] != "completed":
        return None
    token = (record["attempted_at"] - SINCE) // timedelta(microseconds=1)
    finalized_at = record["finalized_at"]
    return Settled(token=token, ended_at=None if finalized_at is None else finalized_at.timestamp() - epoch)


def rescued_at(record: Mapping[str, Any], epoch: float) -> dict[tuple[int, int], float]:
    """Return when each attempt of a row was rescued, by the monotonic clock."""
    errors = [json.loads(error) for error in record["errors"] or ()]
    return {
        (record["id"], error["attempt"]): datetime.fromisoformat(error["at"]).timestamp() - epoch
        for error in errors
        if "Rescuer" in error["error"]
    }
