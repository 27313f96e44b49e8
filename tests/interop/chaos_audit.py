"""
Audit the load test from the tables, the journals and the times of the kills alone.

Rules:

- Every job of the plan is there once, finalized, in the state that its plan and its rescued attempts demand; so are its
  attempts, its errors, its snoozes.
- A rescued attempt is one whose client was killed: before it ended, or so soon after that the outcome was not written yet.
- No two executions of a job overlap; one that was killed ended with its process.
- Who fetched and who executed agree: what was fetched and did not begin was fetched by a client that was killed.
- No two rows hold one unique key, and of the two inserts of a unique job one was skipped.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "chaos"))  # what is shared with the other load test
from chaos_journal import Execution
from chaos_plan import HELD_KIND, ChaosJob
from chaos_rows import Row, shared_keys, wrong_outcome

# An outcome is written within this time, whatever the machine has to do; before it a kill may take it along.
WRITTEN_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The evidence. `killed_at` has the time at which each killed process was dead; `skipped` is by planned job."""

    executions: Sequence[Execution]
    killed_at: Mapping[str, float]
    plan: Sequence[ChaosJob]
    rows: Sequence[Row]
    skipped: Mapping[int, Sequence[bool]] = field(default_factory=dict)


def audit(evidence: Evidence) -> list[str]:
    """Return each fault as a sentence."""
    by_job: dict[int, list[Execution]] = defaultdict(list)
    for execution in evidence.executions:
        by_job[execution.job].append(execution)
    jobs = {job.n: job for job in evidence.plan}
    found = [*_presence(evidence), *shared_keys(evidence.rows)]
    for row in evidence.rows:
        executions = by_job[row.id]
        faults = [
            *wrong_outcome(jobs[row.args["n"]], row, executions),
            *_fetches(row, executions, evidence.killed_at, is_held=jobs[row.args["n"]].kind == HELD_KIND),
            *_overlaps(executions, evidence.killed_at),
            *_rescues(row, executions, evidence.killed_at),
        ]
        found += [f"job {row.id} ({row.state}): {fault}" for fault in faults]
    return found


def longest_wait_seconds(evidence: Evidence) -> float:
    """Return the longest wait of a killed attempt for its next one."""
    waits = [0.0]
    last: dict[int, Execution] = {}
    for execution in evidence.executions:
        before = last.get(execution.job)
        if before is not None and before.ended_at is None and before.client in evidence.killed_at:
            waits.append(execution.began_at - evidence.killed_at[before.client])
        last[execution.job] = execution
    return max(waits)


def _presence(evidence: Evidence) -> Iterator[str]:
    counts: dict[int, int] = defaultdict(int)
    for row in evidence.rows:
        counts[row.args["n"]] += 1
    for job in evidence.plan:
        if counts[job.n] != 1:
            yield f"job {job.n} of the plan must be there once, got {counts[job.n]} rows"
        skipped = sorted(evidence.skipped.get(job.n, ()))
        if skipped != ([False, True] if job.is_unique else [False]):
            yield f"job {job.n} of the plan (unique: {job.is_unique}) was inserted with skips {skipped}"


def _fetches(
    row: Row, executions: Sequence[Execution], killed_at: Mapping[str, float], *, is_held: bool
) -> Iterator[str]:
    """Yield attempts that another client executed, or that a living client never executed."""
    fetched = list(row.attempted_by)
    if is_held and len(executions) < len(fetched):
        fetched.pop()  # cancelled between fetch and begin
    idle: list[str] = []
    for execution in executions:
        if execution.client not in fetched:
            yield f"was executed by {execution.client} at attempt {execution.attempt}, who had not fetched it"
            continue
        while (client := fetched.pop(0)) != execution.client:
            idle.append(client)
    for client in (*idle, *fetched):
        if client not in killed_at:
            yield f"was fetched by {client}, who lives, and not executed"


def _overlaps(executions: Sequence[Execution], killed_at: Mapping[str, float]) -> Iterator[str]:
    for execution in executions:
        if execution.ended_at is None and execution.client not in killed_at:
            yield f"began attempt {execution.attempt} at {execution.client}, who lives, and did not end it"
    for first, second in pairwise(executions):
        ended_at = first.ended_at or killed_at.get(first.client, float("inf"))
        if second.began_at < ended_at:
            yield (
                f"attempt {second.attempt} at {second.client} began {ended_at - second.began_at:.3f} s before attempt "
                f"{first.attempt} at {first.client} ended"
            )


def _rescues(row: Row, executions: Sequence[Execution], killed_at: Mapping[str, float]) -> Iterator[str]:
    for attempt in sorted(row.rescued):
        index = max((n for n, one in enumerate(executions) if one.attempt == attempt), default=None)
        if index is None:
            continue  # killed before it began, which `_fetches` has judged
        last = executions[index]
        snoozes = executions[index + 1].snoozes if index + 1 < len(executions) else row.snoozes
        if snoozes > last.snoozes:
            continue  # that one was snoozed, and what was killed had not begun
        killed = killed_at.get(last.client)
        if killed is None:
            yield f"attempt {attempt} was rescued, and {last.client} lives"
        elif last.ended_at is not None and last.ended_at < killed - WRITTEN_SECONDS:
            seconds = killed - last.ended_at
            yield f"attempt {attempt} was rescued, and had ended {seconds:.1f} s before {last.client} was killed"
