"""Jobs without unique keys, many at once: each column is sent once if all jobs have the same, and as a list if not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from millhand.insert_opts import InsertParams, InsertResult
from millhand.job import JobRow
from millhand.store.job_row import parse_object
from millhand.store.query import Query, Row


def is_plain(params: Sequence[InsertParams]) -> bool:
    """Whether none of the jobs can be in conflict with another."""
    return all(one.unique_key is None and one.unique_states is None for one in params)


def job_insert_many_plain(
    params: Sequence[InsertParams], *, notify_queues: Collection[str] = (), now: datetime | None = None
) -> Query[list[InsertResult]]:
    """
    Insert jobs that have no unique keys, and announce `notify_queues` when it is committed.

    Half of what `job_insert_many` costs: a row that may be in conflict is written in two steps, and what was sent need
    not come back. So a result says what was sent, and of the row its id, its JSON and its instants: what a trigger of
    somebody's made of the rest is not in it.

    Shape: one result for each of `params`, in their order.
    Units: `now` is for rows that bring no instants of their own; None means the database's clock.
    """
    values = {
        "args": [one.encoded_args for one in params],
        "created_at": _said([one.created_at for one in params]),
        "kind": _once([one.kind for one in params]),
        "max_attempts": _once([one.max_attempts for one in params]),
        "metadata": _once([one.encoded_metadata for one in params]),
        "notify_queues": list(notify_queues),
        "now": now,
        "priority": _once([one.priority for one in params]),
        "queue": _once([one.queue for one in params]),
        "scheduled_at": _said([one.scheduled_at for one in params]),
        "state": _once([one.state.value for one in params]),
        # Joined: unnest would flatten an array of arrays. No tag may hold a comma.
        "tags": _once([",".join(one.tags) for one in params]),
    }

    def parse(rows: Sequence[Row]) -> list[InsertResult]:
        return [_result(one, row) for one, row in zip(params, rows, strict=True)]

    return Query("job_insert_many_plain", values, parse)


def _once(values: list[Any]) -> list[Any]:
    """Return the one value that all have, or all."""
    return values[:1] if values.count(values[0]) == len(values) else values


def _said(instants: list[datetime | None]) -> list[datetime | None]:
    """Return nothing if nobody says an instant, or all."""
    return [] if instants.count(None) == len(instants) else instants


def _result(params: InsertParams, row: Row) -> InsertResult:
    id, args, metadata, created_at, scheduled_at = row
    return InsertResult(
        JobRow(
            id,
            params.state,
            0,
            params.max_attempts,
            None,
            created_at,
            None,
            created_at if scheduled_at is None else scheduled_at,
            params.priority,
            args,
            (),
            (),
            params.kind,
            {} if metadata == "{}" else parse_object(metadata),
            params.queue,
            params.tags,
            None,
            None,
        )
    )
