"""The rows of a load test: what a row has, what the plan demands, and whether they agree."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chaos_journal import Execution
from chaos_plan import HELD_KIND, RETRIED_KIND, ChaosJob

RESCUED = "Stuck job rescued by JobRescuer"
RESCUED_BY_US = "Job rescued by ClientRescuer"
FINAL_STATES = ("cancelled", "completed", "discarded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The final row of a job."""

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


@dataclass(frozen=True, slots=True)
class Expected:
    """The outcome that a plan demands. `snoozes` is the most there can be; None where the plan does not decide."""

    state: str
    attempt: int
    error_attempts: tuple[int, ...]
    snoozes: int


def expected_outcome(job: ChaosJob, rescued: set[int]) -> Expected:
    """Return the outcome of a job of which some attempts were killed and which is not cancelled."""
    errors: list[int] = []
    snoozes = 0
    for attempt in range(1, job.max_attempts + 1):
        act = job.acts[attempt - 1] if attempt <= len(job.acts) else "complete"
        if attempt >= job.snooze_at:
            snoozes = job.snoozes
        if attempt in rescued or act in ("fail", "panic") or (act == "cancel" and job.kind == RETRIED_KIND):
            errors.append(attempt)
        elif act == "cancel":
            return Expected("cancelled", attempt, (*errors, attempt), snoozes)
        else:
            return Expected("completed", attempt, tuple(errors), snoozes)
    return Expected("discarded", job.max_attempts, tuple(errors), snoozes)


def row_of(record: Mapping[str, Any]) -> Row:
    """Return a row from its columns."""
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


def shared_keys(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the rows that hold the same unique key."""
    holders: dict[bytes, int] = {}
    for row in rows:
        if row.unique_key is None or row.state in ("cancelled", "discarded"):
            continue
        if row.unique_key in holders:
            yield f"jobs {holders[row.unique_key]} and {row.id} hold one unique key"
        holders[row.unique_key] = row.id


def wrong_outcome(job: ChaosJob, row: Row, executions: Sequence[Execution]) -> Iterator[str]:
    """Yield how a job's row differs from what its plan and its rescued attempts demand."""
    if row.state not in FINAL_STATES:
        yield "must be finalized"
        return
    attempts = [attempt for attempt, _ in row.errors]
    if row.metadata.get("river:rescue_count", 0) != len(row.rescued):
        yield f"was rescued at {sorted(row.rescued)}, and counts {row.metadata.get('river:rescue_count')}"
    # An interrupted attempt is not counted, if the interruption was written.
    num_given_back = sum(one.ended_by == "give_way" for one in executions)
    if not 0 <= len(row.attempted_by) - row.attempt - row.snoozes <= num_given_back:
        yield f"was fetched {len(row.attempted_by)} times in {row.attempt} attempts and {row.snoozes} snoozes"
    if job.kind == HELD_KIND:
        # An attempt that timed out before the cancellation failed. The last attempt has an error unless none ran.
        if row.state != "cancelled" or attempts not in (
            [*range(1, row.attempt + 1)],
            [*range(1, row.attempt)],
        ):
            yield f"was held until it was cancelled, got attempt {row.attempt} and errors at {attempts}"
        return
    expected = expected_outcome(job, row.rescued)
    if (row.state, row.attempt, tuple(attempts)) != (
        expected.state,
        expected.attempt,
        expected.error_attempts,
    ):
        yield f"must be {expected}, got attempt {row.attempt} and errors {row.errors}"
    # A job that was discarded by rescues may not have reached its snoozes.
    least = expected.snoozes if expected.state != "discarded" or not row.rescued else 0
    if not least <= row.snoozes <= expected.snoozes:
        yield f"must have {least} to {expected.snoozes} snoozes, got {row.snoozes}"
    seen = max((one.snoozes for one in executions), default=0)
    if row.snoozes not in (seen, seen + 1):
        yield f"has {row.snoozes} snoozes, and was executed with {seen}"
