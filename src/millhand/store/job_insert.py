"""
Jobs without unique keys: what was sent is not asked back, and many at once are sent by the column.

Each column is sent once if all jobs have the same, and as a list if not. By the column and not by the row: what is done
for each job here is done by comprehensions and in C.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import repeat
from typing import TypeVar

import msgspec

from millhand.insert_opts import InsertParams, InsertResult
from millhand.job import JobRow, JobState, Json
from millhand.store.job_row import parse_object
from millhand.store.query import Query, Row

T = TypeVar("T")


def is_plain(params: Sequence[InsertParams]) -> bool:
    """Whether none of the jobs can be in conflict with another."""
    return all(one.unique_key is None and one.unique_states is None for one in params)


def job_values(params: InsertParams, now: datetime | None) -> dict[str, object]:
    """Return the params of the fragment `job_values`: the columns of one job that every insert has."""
    return {
        "args": params.encoded_args,
        "created_at": params.created_at,
        "kind": params.kind,
        "max_attempts": params.max_attempts,
        "metadata": params.encoded_metadata,
        "now": now,
        "priority": params.priority,
        "queue": params.queue,
        "scheduled_at": params.scheduled_at,
        "state": params.state.value,
        "tags": params.tags,
    }


def job_insert(
    params: InsertParams, *, notify_queue: str | None = None, now: datetime | None = None
) -> Query[list[InsertResult]]:
    """
    Insert one job that has no unique key, and announce `notify_queue` when it is committed; as `job_insert_many_plain`.

    Shape: one result.
    """
    values = job_values(params, now)
    values["notify_queue"] = notify_queue

    def result(rows: Sequence[Row]) -> list[InsertResult]:
        return [InsertResult(_inserted(params, rows))]

    return Query("job_insert", values, result)


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
    columns = _columns(params)
    values = {
        "args": [one.encoded_args for one in params],
        "created_at": _said([one.created_at for one in params]),
        "kind": _once(columns.kinds),
        "max_attempts": _once(columns.max_attempts),
        "metadata": _once([one.encoded_metadata for one in params]),
        "notify_queues": list(notify_queues),
        "now": now,
        "priority": _once(columns.priorities),
        "queue": _once(columns.queues),
        "scheduled_at": _said([one.scheduled_at for one in params]),
        "state": [state.value for state in _once(columns.states)],
        # Joined: unnest would flatten an array of arrays. No tag may hold a comma.
        "tags": [",".join(tags) for tags in _once(columns.tags)],
    }
    return Query("job_insert_many_plain", values, columns.results)


class _Columns(msgspec.Struct, frozen=True, kw_only=True):
    """What jobs were sent with and is not asked back."""

    kinds: list[str]
    max_attempts: list[int]
    priorities: list[int]
    queues: list[str]
    states: list[JobState]
    tags: list[tuple[str, ...]]

    def results(self, rows: Sequence[Row]) -> list[InsertResult]:
        """Return the jobs of which the database says ids, JSON and instants. Raises: ValueError if it has too few."""
        [(said_at, ids, args, metadata, created_ats, scheduled_ats)] = rows
        if len(ids or ()) != len(self.kinds):
            raise _left_out(len(ids or ()), len(self.kinds))
        jobs = map(
            JobRow,
            ids,
            self.states,
            repeat(0),
            self.max_attempts,
            repeat(None),
            [said_at if at is None else at for at in created_ats],
            repeat(None),
            [said_at if at is None else at for at in scheduled_ats],
            self.priorities,
            args,
            repeat(()),
            repeat(()),
            self.kinds,
            map(_metadata, metadata),
            self.queues,
            self.tags,
            repeat(None),
            repeat(None),
        )
        return list(map(InsertResult, jobs))


def _inserted(params: InsertParams, rows: Sequence[Row]) -> JobRow:
    """Return the job of which the database says id, JSON and instants. Raises: ValueError if it says nothing."""
    if not rows:
        raise _left_out(0, 1)
    id, args, metadata, created_at, scheduled_at, _ = rows[0]
    return JobRow(
        id,
        params.state,
        0,
        params.max_attempts,
        None,
        created_at,
        None,
        scheduled_at,
        params.priority,
        args,
        (),
        (),
        params.kind,
        _metadata(metadata),
        params.queue,
        params.tags,
        None,
        None,
    )


def _left_out(num_rows: int, num_jobs: int) -> ValueError:
    return ValueError(
        f"rows inserted must be as many as jobs, got {num_rows:,} of {num_jobs:,}; "
        "see whether a trigger of table river_job leaves any out"
    )


def _columns(params: Sequence[InsertParams]) -> _Columns:
    return _Columns(
        kinds=[one.kind for one in params],
        max_attempts=[one.max_attempts for one in params],
        priorities=[one.priority for one in params],
        queues=[one.queue for one in params],
        states=[one.state for one in params],
        tags=[one.tags for one in params],
    )


def _once(values: list[T]) -> list[T]:
    """Return the one value that all have, or all."""
    return values[:1] if values.count(values[0]) == len(values) else values


def _said(instants: list[datetime | None]) -> list[datetime | None]:
    """Return nothing if nobody says an instant, or all."""
    return [] if instants.count(None) == len(instants) else instants


def _metadata(text: str) -> dict[str, Json]:
    return {} if text == "{}" else parse_object(text)
