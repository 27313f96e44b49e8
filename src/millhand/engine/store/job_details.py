"""One job as the page of a job shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from millhand.core.errors import NotFound
from millhand.core.job import AttemptError, JobId, JobState
from millhand.db.query import Query, Row
from millhand.engine.store.job_row import parse_error

TEXT_MAX = 65_536  # characters of one text
ROWS_MAX = 100  # attempts, logs and tags


class JsonText(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON value as text. `is_cut` says that only its first characters were read."""

    text: str
    num_bytes: int
    is_cut: bool


class JobDetails(msgspec.Struct, frozen=True, kw_only=True):
    """
    One job, bounded in size.

    `attempted_by` and `errors` have the newest entry first, and `num_fetches` and `num_errors` count all of them. `logs`
    maps the number of an attempt to its log. `metadata` is without the output and the logs.
    """

    id: JobId
    state: JobState
    attempt: int
    max_attempts: int
    attempted_at: datetime | None
    created_at: datetime
    finalized_at: datetime | None
    scheduled_at: datetime
    priority: int
    kind: str
    queue: str
    tags: tuple[str, ...]
    args: JsonText
    metadata: JsonText
    output: JsonText | None
    attempted_by: tuple[str, ...]
    num_fetches: int
    errors: tuple[AttemptError, ...]
    num_errors: int
    logs: dict[int, str]
    is_cancel_requested: bool
    unique_key: str | None  # hexadecimal


def job_get_details(id: int) -> Query[JobDetails]:
    """Return one job. Raises: NotFound."""
    params = {"id": id, "max_length": TEXT_MAX, "max_rows": ROWS_MAX}
    return Query("job_get_details", params, lambda rows: _parse(id, rows))


def _parse(id: int, rows: Sequence[Row]) -> JobDetails:
    if not rows:
        raise NotFound("job", id)
    return parse_details(tuple(rows[0]))


def parse_details(row: Row) -> JobDetails:
    """Return a job from the columns of the fragment `job_details`."""
    (job_id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at) = row[:8]
    (priority, kind, queue, tags, args, args_bytes, metadata, metadata_bytes, output, output_bytes) = row[
        8:18
    ]
    (attempted_by, num_fetches, errors, num_errors, logs, is_cancel_requested, unique_key) = row[18:]
    return JobDetails(
        id=JobId(job_id),
        state=JobState(state),
        attempt=max(attempt, 0),
        max_attempts=max_attempts,
        attempted_at=attempted_at,
        created_at=created_at,
        finalized_at=finalized_at,
        scheduled_at=scheduled_at,
        priority=priority,
        kind=kind,
        queue=queue,
        tags=tuple(tags),
        args=_json_text(args, args_bytes),
        metadata=_json_text(metadata, metadata_bytes),
        output=None if output is None else _json_text(output, output_bytes),
        attempted_by=tuple(attempted_by),
        num_fetches=num_fetches,
        errors=tuple(parse_error(error) for error in errors),
        num_errors=num_errors,
        logs=dict(_parse_logs(logs)),
        is_cancel_requested=bool(is_cancel_requested),
        unique_key=None if unique_key is None else bytes(unique_key).hex(),
    )


def _json_text(text: str, num_bytes: int) -> JsonText:
    return JsonText(text=text, num_bytes=num_bytes, is_cut=len(text.encode()) < num_bytes)


def _parse_logs(logs: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield each attempt's number and log; an entry of another shape is left out."""
    for log in reversed(logs):
        with contextlib.suppress(msgspec.MsgspecError):
            yield msgspec.json.decode(log, type=tuple[int, str])
