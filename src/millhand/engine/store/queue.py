"""Statements for queues; a change notifies all clients in the same statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from millhand.core.errors import NotFound
from millhand.core.job import Json
from millhand.core.json_value import checked_json
from millhand.core.queue import QueueRow
from millhand.db.query import Query, Row
from millhand.engine.store.job_row import encode_json, parse_object

ALL_QUEUES = "*"
LIMIT_DEFAULT = 100
# Go's JSON encoder escapes these, also in notifications.
_GO_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


def queue_create_or_set_updated_at(name: str, *, now: datetime | None = None) -> Query[QueueRow]:
    """Create a queue's row, or update its `updated_at`; a queue that no client updates is deleted after a day."""
    params = {"name": name, "now": now}
    return Query("queue_create_or_set_updated_at", params, lambda rows: _parse_one(name, rows))


def queue_get(name: str) -> Query[QueueRow]:
    """Return one queue. Raises: NotFound."""
    return Query("queue_get", {"name": name}, lambda rows: _parse_one(name, rows))


def queue_peek(name: str) -> Query[tuple[datetime, bool]]:
    """Return the database's time, and whether a queue is paused. It need not have a row."""
    return Query("queue_peek", {"name": name}, lambda rows: (rows[0][0], bool(rows[0][1])))


def queue_list(*, limit: int = LIMIT_DEFAULT, after_name: str = "") -> Query[list[QueueRow]]:
    """Return up to `limit` queues, by name, after `after_name`."""
    return Query("queue_list", {"limit": limit, "after_name": after_name}, _parse)


def queue_pause(name: str, *, now: datetime | None = None) -> Query[int]:
    """
    Pause a queue, or all known ones for `*`, notify all clients, and return the number of queues.

    A paused queue keeps its `paused_at`. Running jobs continue.
    Raises: NotFound, never for `*`.
    """
    params = {"name": name, "now": now, "payload": _payload("pause", name)}
    return Query("queue_pause", params, lambda rows: _parse_num_queues(name, rows))


def queue_resume(name: str, *, now: datetime | None = None) -> Query[int]:
    """Resume a queue, or all known ones for `*`, as `queue_pause` pauses them."""
    params = {"name": name, "now": now, "payload": _payload("resume", name)}
    return Query("queue_resume", params, lambda rows: _parse_num_queues(name, rows))


def queue_update(
    name: str, *, metadata: Mapping[str, Json] | None = None, now: datetime | None = None
) -> Query[QueueRow]:
    """
    Replace a queue's metadata and notify all clients; None changes and notifies nothing.

    Units: the notification must be shorter than 8,000 bytes, PostgreSQL's limit; else DriverError, and nothing is written.
    Raises: NotFound, and ValueError for metadata that JSON cannot represent.
    Source: River v0.51.2, producer.go `controlEventPayload`.
    """
    subject = f"metadata of queue {name!r}"
    encoded = None if metadata is None else encode_json(checked_json(subject, dict(metadata)))
    payload = None if encoded is None else _metadata_payload(encoded, name)
    params = {"name": name, "metadata": encoded, "now": now, "payload": payload}
    return Query("queue_update", params, lambda rows: _parse_one(name, rows))


def queue_delete_expired(*, updated_at_horizon: datetime, limit: int) -> Query[list[str]]:
    """Delete up to `limit` queues that no client has updated since the horizon, paused or not; return their names."""
    params = {"updated_at_horizon": updated_at_horizon, "limit": limit}
    return Query("queue_delete_expired", params, lambda rows: [row[0] for row in rows])


def _payload(action: str, name: str) -> str:
    return encode_json({"action": action, "queue": name})


def _metadata_payload(encoded_metadata: str, name: str) -> str:
    return (
        f'{{"action":"metadata_changed","metadata":{encoded_metadata.translate(_GO_ESCAPES)},'
        f'"queue":{encode_json(name)}}}'
    )


def _parse(rows: Sequence[Row]) -> list[QueueRow]:
    return [
        QueueRow(name, created_at, parse_object(metadata), paused_at, updated_at)
        for name, created_at, metadata, paused_at, updated_at in rows
    ]


def _parse_one(name: str, rows: Sequence[Row]) -> QueueRow:
    if not rows:
        raise NotFound("queue", name)
    return _parse(rows)[0]


def _parse_num_queues(name: str, rows: Sequence[Row]) -> int:
    num_queues = int(rows[0][0])
    if not num_queues and name != ALL_QUEUES:
        raise NotFound("queue", name)
    return num_queues
