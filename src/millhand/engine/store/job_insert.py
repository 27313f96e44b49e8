"""
Statements that insert jobs.

Most jobs have no unique key. Their statement costs half, because it need not check for conflicts or return whole rows.
Columns are sent as arrays, and args as one JSON array. If all jobs have the same value, the array has one element.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from operator import attrgetter
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from millhand.core.insert_opts import INSERT_COLUMNS, UNIQUE_COLUMNS, InsertParams, InsertResult
from millhand.core.job import JobRow, Json
from millhand.db.query import TIMEOUT_SECONDS, Query, Row, parse_none
from millhand.engine.store.job_row import NEW_JOB, new_jobs, parse_job, parse_object

T = TypeVar("T")

# The server needs 25 to 50 bytes of memory for each character while it reads the array.
ARRAY_CHARACTERS_MAX = 4_000_000
# The least that a server must store; a slow one stores some 5 MB/s.
CHARACTERS_PER_SECOND = 1_000_000

_ARGS = attrgetter("encoded_args")
_UNIQUE = attrgetter(*UNIQUE_COLUMNS)
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_INSTANTS = frozenset({"created_at", "scheduled_at"})
# Columns that the statement need not return: unless a trigger changes them, the row has them as sent.
_STORED_AS_SENT = tuple(column for column in INSERT_COLUMNS if column not in {"args", "metadata", *_INSTANTS})
# How to send an array's elements. Tags are joined, because unnest flattens an array of arrays; no tag has a comma.
_ENCODERS: Mapping[str, Callable[[Any], object]] = MappingProxyType(
    {"state": attrgetter("value"), "tags": ",".join}
)


def job_insert_many(
    params: Sequence[InsertParams], *, notify_queues: Collection[str] = (), now: datetime | None = None
) -> Query[list[InsertResult]]:
    """
    Insert jobs, and notify all clients of `notify_queues` at the commit.

    If another job has the unique key, the result is that job's row, locked until the end of the transaction. If two of
    `params` have the same key, the statement fails (SQLSTATE 21000) and inserts nothing.
    If no job has a unique key, a result has the row's id, JSON and instants; its other fields are as sent, even if a
    trigger of yours changes these columns.
    Shape: one result for each of `params`, in their order.
    Units: `now` is for jobs without instants; None means the database's clock. The deadline grows with the args.
    Concurrency: safe to race; the second insert of a key waits for the first one's transaction. Inserts of the same keys do
    not deadlock.
    """
    is_plain = [*map(_UNIQUE, params)].count((None, None)) == len(params) > 0
    if len(params) == 1:
        return _insert_one(params[0], notify_queues, now, is_plain=is_plain and len(notify_queues) <= 1)
    texts = [*map(_ARGS, params)]
    num_characters = sum(map(len, texts))
    array = _array_of(texts) if is_plain and num_characters <= ARRAY_CHARACTERS_MAX else None
    if array is None:
        return job_insert_many_unique(params, notify_queues=notify_queues, now=now)
    values = {
        column: _shortened(column, [*map(attrgetter(field), params)])
        for column, field in INSERT_COLUMNS.items()
        if column != "args"
    }
    return Query(
        "job_insert_many_plain",
        {**_encoded(values), "args": array, "notify_queues": list(notify_queues), "now": now},
        lambda rows: _parse_plain_many(values, len(params), rows),
        seconds_for(num_characters),
    )


def job_insert_many_unique(
    params: Sequence[InsertParams], *, notify_queues: Collection[str] = (), now: datetime | None = None
) -> Query[list[InsertResult]]:
    """Insert jobs as `job_insert_many` inserts those with unique keys, whether they have one or not."""
    sent = {column: [*map(attrgetter(field), params)] for column, field in INSERT_COLUMNS.items()}
    unique = {column: [*map(attrgetter(column), params)] for column in UNIQUE_COLUMNS}
    return Query(
        "job_insert_many",
        {**_encoded(sent), **unique, "notify_queues": list(notify_queues), "now": now},
        lambda rows: _parse_by_key(unique["unique_key"], rows),
        seconds_for(sum(map(len, sent["args"]))),
    )


def periodic_run_exists(params: InsertParams, periodic_job_id: str) -> Query[bool]:
    """Return whether the run of a periodic job that `params` would insert is in the table."""
    fields = ("kind", "priority", "queue", "scheduled_at")
    values = {field: getattr(params, field) for field in fields} | {"periodic_job_id": periodic_job_id}
    return Query("periodic_run_exists", values, lambda rows: bool(rows[0][0]))


def seconds_for(num_characters: int) -> float:
    """Return the deadline of a statement that sends args of this length."""
    return TIMEOUT_SECONDS + num_characters // CHARACTERS_PER_SECOND


def job_notify_insert(queues: Collection[str]) -> Query[None]:
    """Notify all clients that jobs became available in `queues`."""
    return Query("job_notify_insert", {"queues": list(queues)}, parse_none)


def _insert_one(
    params: InsertParams, notify_queues: Collection[str], now: datetime | None, *, is_plain: bool
) -> Query[list[InsertResult]]:
    values: dict[str, object] = {column: getattr(params, field) for column, field in INSERT_COLUMNS.items()}
    values["now"] = now
    values["state"] = params.state.value
    seconds = seconds_for(len(params.encoded_args))
    if is_plain:
        values["notify_queue"] = next(iter(notify_queues), None)
        return Query("job_insert", values, lambda rows: [InsertResult(_parse_plain(params, rows))], seconds)
    values["notify_queues"] = list(notify_queues)
    values |= {column: getattr(params, column) for column in UNIQUE_COLUMNS}
    return Query("job_insert_unique", values, _parse_rows, seconds)


def _array_of(texts: Sequence[str]) -> str | None:
    """Return the JSON array of these texts, or None if one is not a JSON value, as args of a middleware may not be."""
    array = f"[{','.join(texts)}]"
    try:
        elements = _decode_array(array)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    # Two wrong texts may make a right one together, such as "[1" and "2]".
    encoded = texts if array.isascii() else map(str.encode, texts)
    return array if [*map(len, elements)] == [*map(len, encoded)] else None


def _encoded(values: Mapping[str, list[Any]]) -> dict[str, object]:
    encoded: dict[str, object] = dict(values)
    encoded |= {column: [*map(encode, values[column])] for column, encode in _ENCODERS.items()}
    return encoded


def _shortened(column: str, values: list[T]) -> list[T]:
    """Return one value if all jobs have the same, and no value for an instant that no job has."""
    if values.count(values[0]) < len(values):
        return values
    if column in _INSTANTS:
        return [] if values[0] is None else values
    return values[:1]


def _parse_plain_many(
    sent: Mapping[str, list[Any]], num_jobs: int, rows: Sequence[Row]
) -> list[InsertResult]:
    """Return the jobs of columns as sent and arrays as returned. Raises: ValueError if rows are missing."""
    [(statement_at, ids, args, metadata, created_ats, scheduled_ats)] = rows
    _check_count(len(ids or ()), num_jobs)
    jobs = new_jobs(
        id=ids,
        encoded_args=args,
        metadata=map(_parse_metadata, metadata or repeat("{}")),
        created_at=created_ats or repeat(statement_at),
        scheduled_at=scheduled_ats or repeat(statement_at),
        **{
            column: sent[column] if len(sent[column]) == num_jobs else repeat(sent[column][0])
            for column in _STORED_AS_SENT
        },
    )
    return list(map(InsertResult, jobs))


def _parse_plain(params: InsertParams, rows: Sequence[Row]) -> JobRow:
    """Return the job of the columns as sent and returned. Raises: ValueError if there is no row."""
    _check_count(len(rows), 1)
    id, args, metadata, created_at, scheduled_at, _ = rows[0]
    return JobRow(
        id=id,
        encoded_args=args,
        metadata=_parse_metadata(metadata),
        created_at=created_at,
        scheduled_at=scheduled_at,
        **{column: getattr(params, column) for column in _STORED_AS_SENT},
        **NEW_JOB,
    )


def _parse_metadata(text: str) -> dict[str, Json]:
    return {} if text == "{}" else parse_object(text)  # nearly always the first


def _parse_rows(rows: Sequence[Row]) -> list[InsertResult]:
    return [InsertResult(parse_job(row), row[-1]) for row in rows]


def _parse_by_key(keys: Sequence[bytes | None], rows: Sequence[Row]) -> list[InsertResult]:
    """Return the jobs in the order of `keys`, from rows that are sorted by key. Raises: ValueError if rows are missing."""
    _check_count(len(rows), len(keys))
    places = sorted(range(len(keys)), key=lambda place: (keys[place] is None, keys[place] or b""))
    return [result for _, result in sorted(zip(places, _parse_rows(rows), strict=True))]


def _check_count(num_rows: int, num_jobs: int) -> None:
    if num_rows != num_jobs:
        raise ValueError(
            f"rows inserted must be as many as jobs, got {num_rows:,} of {num_jobs:,}; "
            "check whether a trigger of table river_job leaves any out"
        )
