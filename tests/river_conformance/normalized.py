"""Rows as the contract describes them: every field, instants in UTC as Go writes them, and args as stored."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

from millhand.core.insert_opts import InsertResult
from millhand.core.job import AttemptError, JobRow, JobState
from millhand.core.queue import QueueRow

Normalized = dict[str, object]

# River's SQLite driver needs a random mark in the metadata of a unique job. It is not part of the job.
NONCE_KEY = "river:unique_nonce"


def instant_text(instant: datetime) -> str:
    """Return an instant in RFC 3339 as Go writes it: in its own offset, without zeros at the end of the fraction."""
    text = re.sub(r"(\.\d*?)0+(?=[Z+-]|$)", lambda match: match[1].rstrip("."), instant.isoformat())
    return text.replace("+00:00", "Z")


def utc_text(instant: datetime | None) -> str | None:
    """Return an instant in UTC."""
    return None if instant is None else instant_text(instant.astimezone(UTC))


def normalized_job(row: JobRow) -> Normalized:
    """Return a job. Its args and id keep all digits."""
    metadata = {key: value for key, value in row.metadata.items() if key != NONCE_KEY}
    return {
        "args": msgspec.Raw(row.encoded_args.encode()),
        "attempt": row.attempt,
        "attempted_at": utc_text(row.attempted_at),
        "attempted_by": row.attempted_by,
        "created_at": utc_text(row.created_at),
        "errors": [_normalized_error(error) for error in row.errors],
        "finalized_at": utc_text(row.finalized_at),
        "id": row.id,
        "kind": row.kind,
        "max_attempts": row.max_attempts,
        "metadata": metadata,
        "priority": row.priority,
        "queue": row.queue,
        "scheduled_at": utc_text(row.scheduled_at),
        "state": row.state.value,
        "tags": row.tags,
        "unique_key": None if row.unique_key is None else row.unique_key.hex(),
        "unique_states": None if row.unique_states is None else _states_in(row.unique_states),
    }


def normalized_result(result: InsertResult) -> Normalized:
    """Return the result of one insert of many."""
    skipped = result.unique_skipped_as_duplicate
    return {"job": normalized_job(result.job), "unique_skipped_as_duplicate": skipped}


def normalized_queue(row: QueueRow) -> Normalized:
    """Return a queue."""
    return {
        "created_at": utc_text(row.created_at),
        "metadata": row.metadata,
        "name": row.name,
        "paused_at": utc_text(row.paused_at),
        "updated_at": utc_text(row.updated_at),
    }


def _normalized_error(error: AttemptError) -> Normalized:
    return {"at": utc_text(error.at), "attempt": error.attempt, "error": error.error, "trace": error.trace}


def _states_in(mask: int) -> list[str]:
    return [state.value for bit, state in enumerate(JobState) if mask & (1 << bit)]
