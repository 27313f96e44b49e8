"""
Whether the load test's clients kept their word, from the tables, the journals and the instants of the kills alone.

Rules:

- Every job of the plan is there once, finalized, in the state that its plan and its rescued attempts demand; so are its
  attempts, its errors, its snoozes.
- A rescued attempt is one whose client was killed: before it ended, or so soon after that the outcome was not written yet.
- No two executions of a job overlap; one that was killed ended with its process.
- Who fetched and who executed agree: what was fetched and did not begin was fetched by a client that was killed.
- No two rows hold one unique key, and of the two inserts of a unique job one was skipped.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from chaos_journal import Execution
from chaos_plan import HELD_KIND, ChaosJob

RESCUED = "Stuck job rescued by JobRescuer"
RESCUED_BY_US = "Job rescued by ClientRescuer"
FINAL_STATES = ("cancelled", "completed", "discarded")
# An outcome is written within this time, whatever the machine has to do; before it a kill may take it along.
WRITTEN_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a job's row says in the end."""

    id: int
    args: dict[str, Any]
    attempt: int
    attempted_by: Sequence[str]
    errors: Sequence[tuple[int, str]]
    metadata: dict[str, Any]
    state: str
    unique_key: bytes | None = None

    @property
    def rescued(self) -> set[int]:
        return {attempt for attempt, error in self.errors if error.startswith((RESCUED, RESCUED_BY_US))}

    @property
    def snoozes(self) -> int:
        snoozes: int = self.metadata.get("snoozes", 0)
        return snoozes


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that is judged. `killed_at` says when a client's process was dead; `skipped` is by job of the plan."""

    executions: Sequence[Execution]
    killed_at: Mapping[str, float]
    plan: Sequence[ChaosJob]
    rows: Sequence[Row]
    skipped: Mapping[int, Sequence[bool]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a job. `snoozes` is the most there can be; None where the plan alone does not say it."""

    state: str
    attempt: int
    error_attempts: tuple[int, ...]
    snoozes: int


def audit(evidence: Evidence) -> list[str]:
    """Return what is wrong, in sentences; nothing if all is well."""
    by_job: dict[int, list[Execution]] = defaultdict(list)
    for execution in evidence.executions:
        by_job[execution.job].append(execution)
    jobs = {job.n: job for job in evidence.plan}
    found = [*_presence(evidence), *_keys(evidence)]
    for row in evidence.rows:
        executions = by_job[row.id]
        faults = [
            *_outcome(jobs[row.args["n"]], row, executions),
            *_fetches(row, executions, evidence.killed_at, is_held=jobs[row.args["n"]].kind == HELD_KIND),
            *_overlaps(executions, evidence.killed_at),
            *_rescues(row, executions, evidence.killed_at),
        ]
        found += [f"job {row.id} ({row.state}): {fault}" for fault in faults]
    return found


def fate(job: ChaosJob, rescued: set[int]) -> Fate:
    """Return what becomes of a job some of whose attempts were killed, if nobody cancels it."""
    errors: list[int] = []
    snoozes = 0
    for attempt in range(1, job.max_attempts + 1):
        act = job.acts[attempt - 1] if attempt <= len(job.acts) else "complete"
        if attempt >= job.snooze_at:
            snoozes = job.snoozes
        if attempt in rescued or act in ("fail", "panic"):
            errors.append(attempt)
        elif act == "cancel":
            return Fate("cancelled", attempt, (*errors, attempt), snoozes)
        else:
            return Fate("completed", attempt, tuple(errors), snoozes)
    return Fate("discarded", job.max_attempts, tuple(errors), snoozes)


def longest_wait_seconds(evidence: Evidence) -> float:
    """Return how long the slowest of the killed attempts waited for the next one."""
    waits = [0.0]
    last: dict[int, Execution] = {}
    for execution in evidence.executions:
        before = last.get(execution.job)
        if before is not None and before.ended_at is None and before.client in evidence.killed_at:
            waits.append(execution.began_at - evidence.killed_at[before.client])
        last[execution.job] = execution
    return max(waits)


def row_of(record: Mapping[str, Any]) -> Row:
    """Return a row from what the database says of it."""
    errors = [json.loads(error) for error in record["errors"] or ()]
    return Row(
        id=record["id"],
        args=json.loads(record["args"]),
        attempt=record["attempt"],
        attempted_by=record["attempted_by"] or (),
        errors=[(error["attempt"], error["error"]) for error in errors],
        metadata=json.loads(record["metadata"]),
        state=record["state"],
        unique_key=record["unique_key"],
    )


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


def _keys(evidence: Evidence) -> Iterator[str]:
    holders: dict[bytes, int] = {}
    for row in evidence.rows:
        if row.unique_key is None or row.state in ("cancelled", "discarded"):
            continue
        if row.unique_key in holders:
            yield f"jobs {holders[row.unique_key]} and {row.id} hold one unique key"
        holders[row.unique_key] = row.id


def _outcome(job: ChaosJob, row: Row, executions: Sequence[Execution]) -> Iterator[str]:
    if row.state not in FINAL_STATES:
        yield "must be finalized"
        return
    attempts = [attempt for attempt, _ in row.errors]
    if row.metadata.get("river:rescue_count", 0) != len(row.rescued):
        yield f"was rescued at {sorted(row.rescued)}, and counts {row.metadata.get('river:rescue_count')}"
    if len(row.attempted_by) != row.attempt + row.snoozes:
        yield f"was fetched {len(row.attempted_by)} times in {row.attempt} attempts and {row.snoozes} snoozes"
    if job.kind == HELD_KIND:
        # An attempt that timed out before the cancel came failed; the last one has an error unless none ran.
        if row.state != "cancelled" or attempts not in (
            [*range(1, row.attempt + 1)],
            [*range(1, row.attempt)],
        ):
            yield f"was held until it was cancelled, got attempt {row.attempt} and errors at {attempts}"
        return
    expected = fate(job, row.rescued)
    if (row.state, row.attempt, tuple(attempts)) != (
        expected.state,
        expected.attempt,
        expected.error_attempts,
    ):
        yield f"must be {expected}, got attempt {row.attempt} and errors {row.errors}"
    # Whoever was discarded by rescues may have had no chance to be snoozed.
    least = expected.snoozes if expected.state != "discarded" or not row.rescued else 0
    if not least <= row.snoozes <= expected.snoozes:
        yield f"must have {least} to {expected.snoozes} snoozes, got {row.snoozes}"
    seen = max((one.snoozes for one in executions), default=0)
    if row.snoozes not in (seen, seen + 1):
        yield f"has {row.snoozes} snoozes, and was executed with {seen}"


def _fetches(
    row: Row, executions: Sequence[Execution], killed_at: Mapping[str, float], *, is_held: bool
) -> Iterator[str]:
    """Tell what was executed by others than fetched it, or never, though its client lives."""
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
