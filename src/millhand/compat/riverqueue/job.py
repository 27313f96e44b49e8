"""A job as `riverqueue` returns it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import millhand.core.insert_opts as millhand_opts
from millhand.core.job import JobRow, JobState


@dataclass
class AttemptError:
    """One failed attempt."""

    at: datetime
    attempt: int
    error: str
    trace: str

    @staticmethod
    def from_dict(data: dict[str, Any]) -> AttemptError:
        return AttemptError(
            at=datetime.fromisoformat(data["at"]),
            attempt=data["attempt"],
            error=data["error"],
            trace=data["trace"],
        )

    def to_json(self) -> str:
        at = self.at.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return json.dumps({"at": at, "attempt": self.attempt, "error": self.error, "trace": self.trace})


@dataclass
class Job:
    """A row of `river_job` without its mask of states. Instants are in UTC."""

    id: int
    args: dict[str, Any]
    attempt: int
    attempted_at: datetime | None
    attempted_by: list[str] | None
    created_at: datetime
    errors: list[AttemptError] | None
    finalized_at: datetime | None
    kind: str
    max_attempts: int
    metadata: dict[str, Any]
    priority: int
    queue: str
    scheduled_at: datetime
    state: JobState
    tags: list[str]
    unique_key: bytes | None


@dataclass
class InsertResult:
    """The new job, or the existing one if the insert was skipped as a duplicate."""

    job: Job
    unique_skipped_as_duplicated: bool = False


def result_of(result: millhand_opts.InsertResult) -> InsertResult:
    return InsertResult(_job(result.job), unique_skipped_as_duplicated=result.unique_skipped_as_duplicate)


def num_inserted(results: list[millhand_opts.InsertResult]) -> int:
    return sum(not result.unique_skipped_as_duplicate for result in results)


def _job(row: JobRow) -> Job:
    args: Any = row.args
    errors = [AttemptError(one.at, one.attempt, one.error, one.trace) for one in row.errors]
    return Job(
        id=row.id,
        args=args,
        attempt=row.attempt,
        attempted_at=row.attempted_at,
        attempted_by=list(row.attempted_by) or None,
        created_at=row.created_at,
        errors=errors or None,
        finalized_at=row.finalized_at,
        kind=row.kind,
        max_attempts=row.max_attempts,
        metadata=row.metadata,
        priority=row.priority,
        queue=row.queue,
        scheduled_at=row.scheduled_at,
        state=row.state,
        tags=list(row.tags),
        unique_key=row.unique_key,
    )
