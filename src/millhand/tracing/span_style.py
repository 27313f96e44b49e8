"""
Names and attributes of spans, in two styles.

`semconv` follows the semantic conventions for messaging, version 1.44. They are in development, and do not know River:
`messaging.system` is `river`, as in otelriver. `otelriver` has the names of River's middleware for Go.

No attribute has args, metadata or the text of an error.

Source: rivercontrib v0.12.0, otelriver `InsertMany, Work`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias

from millhand.core.errors import JobSnooze, error_type
from millhand.core.insert_opts import InsertParams, InsertResult
from millhand.core.worker_job import Job
from millhand.engine.attempt_outcome import AttemptOutcome
from millhand.tracing import Style

Attributes: TypeAlias = dict[str, Any]

_MILLISECOND, _SECOND = 1_000, 1_000_000  # in microseconds
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"


class SpanStyle(Protocol):
    """The names and attributes of one style. Methods with `end` return what is known only after the call."""

    @property
    def schema_url(self) -> str | None: ...

    def insert(self, params: Sequence[InsertParams]) -> tuple[str, Attributes]: ...

    def insert_end(self, results: Sequence[InsertResult], error: BaseException | None) -> Attributes: ...

    def work(self, job: Job[Any]) -> tuple[str, Attributes]: ...

    def work_end(self, outcome: AttemptOutcome, error: BaseException | None) -> Attributes: ...


class SemconvStyle:
    """The semantic conventions for messaging."""

    schema_url = SCHEMA_URL

    def insert(self, params: Sequence[InsertParams]) -> tuple[str, Attributes]:
        queues, kinds = {one.queue for one in params}, {one.kind for one in params}
        attributes = _operation("send")
        if len(params) != 1:
            attributes["messaging.batch.message_count"] = len(params)
        if len(kinds) == 1:
            attributes["messaging.river.job.kind"] = kinds.pop()
        if len(queues) != 1:
            return "send", attributes
        attributes["messaging.destination.name"] = queue = queues.pop()
        return f"send {queue}", attributes

    def insert_end(self, results: Sequence[InsertResult], error: BaseException | None) -> Attributes:
        attributes = _error_type(error)
        if len(results) == 1:
            attributes["messaging.message.id"] = str(results[0].job.id)
        if num_skipped := _num_skipped(results):
            attributes["messaging.river.job.num_skipped"] = num_skipped
        return attributes

    def work(self, job: Job[Any]) -> tuple[str, Attributes]:
        row = job.row
        attributes = _operation("process") | {
            "messaging.destination.name": row.queue,
            "messaging.message.id": str(row.id),
            "messaging.river.job.attempt": row.attempt,
            "messaging.river.job.kind": row.kind,
            "messaging.river.job.max_attempts": row.max_attempts,
            "messaging.river.job.priority": row.priority,
        }
        if job.client is not None:
            attributes["messaging.client.id"] = job.client.id
        return f"process {row.queue}", attributes

    def work_end(self, outcome: AttemptOutcome, error: BaseException | None) -> Attributes:
        failed = error if outcome == "failed" else None
        return {"messaging.river.job.outcome": outcome, **_error_type(failed)}


class OtelriverStyle:
    """The names of River's middleware for Go."""

    schema_url = None

    def insert(self, params: Sequence[InsertParams]) -> tuple[str, Attributes]:
        return "river.insert_many", {"kinds": sorted({one.kind for one in params})}

    def insert_end(self, results: Sequence[InsertResult], error: BaseException | None) -> Attributes:
        status = "ok" if error is None else "error"
        return {"status": status, "unique_skipped_as_duplicate_count": _num_skipped(results)}

    def work(self, job: Job[Any]) -> tuple[str, Attributes]:
        row = job.row
        return "river.work", {
            "attempt": row.attempt,
            "created_at": _rfc3339(row.created_at),
            "id": row.id,
            "kind": row.kind,
            "priority": row.priority,
            "queue": row.queue,
            "scheduled_at": _rfc3339(row.scheduled_at),
            "tag": list(row.tags),
        }

    def work_end(self, outcome: AttemptOutcome, error: BaseException | None) -> Attributes:
        attributes: Attributes = {"status": "ok" if outcome in ("completed", "snoozed") else "error"}
        if outcome == "cancelled":
            attributes["cancel"] = True
        if outcome == "snoozed" and isinstance(error, JobSnooze):
            attributes |= {"snooze": True, "snooze.duration": go_duration(error.delay)}
        return attributes


STYLES: dict[Style, SpanStyle] = {"semconv": SemconvStyle(), "otelriver": OtelriverStyle()}


def go_duration(duration: timedelta) -> str:
    """Return a duration as Go prints it: `1h30m0s`, `1.5s`, `500ms`."""
    microseconds = duration // timedelta(microseconds=1)
    if microseconds < _MILLISECOND:
        return f"{microseconds}µs" if microseconds else "0s"
    if microseconds < _SECOND:
        return f"{microseconds / _MILLISECOND:.15g}ms"
    minutes, rest = divmod(microseconds, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / _SECOND:.15g}s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _operation(name: str) -> Attributes:
    return {"messaging.operation.name": name, "messaging.operation.type": name, "messaging.system": "river"}


def _error_type(error: BaseException | None) -> Attributes:
    return {} if error is None else {"error.type": error_type(error)}


def _num_skipped(results: Sequence[InsertResult]) -> int:
    return sum(result.unique_skipped_as_duplicate for result in results)


def _rfc3339(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
