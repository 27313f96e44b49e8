"""Statements for limits of queues and their partitions; a change notifies all clients in the same statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec

from millhand.core.errors import ConfigError, NotFound
from millhand.core.job import Json
from millhand.core.limit import Limit, PartitionStatus, QueueLimit, Rate
from millhand.db.query import Query, Row, parse_count
from millhand.engine.store.job_row import encode_json, flat_texts

# Waiting jobs of a partition are counted up to this number.
COUNTED_MAX = 10_000
# A list of partitions is the busiest of so many.
SEARCHED_MAX = 1_000
PARTITIONS_DEFAULT = 20
_HALT = 11  # the place of `halt` in the columns of a limit


class ListedLimit(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the database says about the limit of one queue.

    Attributes:
        row: The row; None if there is none, or if it is invalid.
        fault: Why the row is invalid.
        form: What River UI's form says, any JSON value; None if it says nothing.
        obeyed_form: What the form said when the row was last changed for it.
        has_halts: Whether the schema has version 14, which the statements of slots need.
    """

    queue: str
    row: QueueLimit | None = None
    fault: str | None = None
    form: Json = None
    obeyed_form: Json = None
    has_halts: bool = True


def limit_list(*, queue: str | None = None) -> Query[list[ListedLimit]]:
    """Return the limits of all queues, or of one, by name, with those that only River UI's form names."""
    return Query("limit_list", {"queue": queue}, lambda rows: [_parse_listed(row) for row in rows])


def limit_lock(queue: str) -> Query[bool]:
    """Lock a queue's limit until the transaction ends; return whether there is one."""
    return Query("limit_lock", {"queue": queue}, bool)


def limit_declare(limits: Mapping[str, Limit]) -> Query[list[QueueLimit]]:
    """
    Write what code declares: insert each limit, or replace it if code declared another limit before.

    A limit with the same declaration keeps what was set at run time, and no client is notified.
    """
    rows: Json = [
        {"queue": queue, "declared": _declaration(limit), **limit_columns(limit)}
        for queue, limit in limits.items()
    ]
    params = {"is_declaration": True, "limits": encode_json(rows), "now": None}
    return Query("limit_put", params, _parse_rows)


def limit_set(queue: str, limit: Limit, *, form: Json = None) -> Query[QueueLimit]:
    """
    Replace a queue's limit, or insert it; what code declared stays.

    `form` is what River UI's form says now: a later value replaces the limit, but this one does not.
    """
    row: Json = {"queue": queue, "form": form, **limit_columns(limit)}
    params = {"is_declaration": False, "limits": encode_json([row]), "now": None}
    return Query("limit_put", params, lambda rows: _parse_rows(rows)[0])


def limit_remove(queue: str) -> Query[None]:
    """Delete a queue's limit, and what River UI's form said. Raises: NotFound."""

    def parse(rows: Sequence[Row]) -> None:
        if not parse_count(rows):
            raise NotFound("limit of queue", queue)

    params = {"queue": queue, "is_for_form": False, "obeyed_form": None}
    return Query("limit_remove", params, parse)


def limit_remove_for_form(queue: str, *, obeyed_form: Json) -> Query[bool]:
    """
    Delete a limit that no code declared, because River UI's form limits nothing now; return whether there was one.

    `obeyed_form` is what the form said when the row was last changed. It spares a limit that was set since.
    """
    obeyed = None if obeyed_form is None else encode_json(obeyed_form)
    params = {"queue": queue, "is_for_form": True, "obeyed_form": obeyed}
    return Query("limit_remove", params, lambda rows: bool(parse_count(rows)))


def limit_partition_set(
    queue: str,
    key: str | Sequence[Json],
    *,
    at_once: int | msgspec.UnsetType | None = msgspec.UNSET,
    weight: int | None = None,
) -> Query[PartitionStatus]:
    """
    Change a partition's own settings; None as `at_once` is the limit's, None as `weight` changes nothing.

    `key` is the values that make the partition, or its digest.
    """
    if at_once is msgspec.UNSET:
        return _partition_put(queue, key, weight=weight)
    return _partition_put(queue, key, sets_at_once=True, at_once=at_once, weight=weight)


def limit_partition_hold(
    queue: str, key: str | Sequence[Json], duration: timedelta
) -> Query[PartitionStatus]:
    """Start no job of a partition for a time. Running jobs continue."""
    return _partition_put(queue, key, sets_hold=True, hold_seconds=duration.total_seconds())


def limit_partition_release(queue: str, key: str | Sequence[Json]) -> Query[PartitionStatus]:
    """End the hold of a partition. Raises: NotFound if the partition has no row."""
    return _partition_put(queue, key, sets_hold=True, creates=False)


def limit_partition_resume(queue: str, key: str | Sequence[Json]) -> Query[PartitionStatus]:
    """End the halt of a partition. Raises: NotFound if it is not halted."""
    return _partition_put(queue, key, subject="halted partition", sets_hold=True, resumes=True, creates=False)


def limit_partition_list_halted(
    queue: str | None = None, *, limit: int = PARTITIONS_DEFAULT
) -> Query[list[PartitionStatus]]:
    """Return halted partitions of a queue's limit or of all, those that were halted first."""
    params = {"queue": queue, "limit": limit, "counted_max": COUNTED_MAX, "now": None}
    return Query("limit_partition_list_halted", params, lambda rows: [_parse_partition(row) for row in rows])


def limit_partition_list(queue: str, *, limit: int = PARTITIONS_DEFAULT) -> Query[list[PartitionStatus]]:
    """Return the partitions with most running and waiting jobs; of waiting jobs, up to `COUNTED_MAX` + 1 are counted."""
    params = {
        "queue": queue,
        "limit": limit,
        "counted_max": COUNTED_MAX,
        "now": None,
        "searched_max": SEARCHED_MAX,
    }
    return Query("limit_partition_list", params, lambda rows: [_parse_partition(row) for row in rows])


def limit_columns(limit: Limit) -> dict[str, Json]:
    """Return a limit's values by the columns of `millhand_limit`."""
    rate = limit.rate
    return {
        "at_once": limit.at_once,
        "at_once_per_client": limit.at_once_per_client,
        "total": limit.total,
        "by_args": list(limit.by_args),
        "by_kind": limit.by_kind,
        "rate_allowed": rate and rate.allowed,
        "rate_seconds": rate and rate.per.total_seconds(),
        "rate_burst": rate and rate.burst,
        "in_order": limit.in_order,
        "is_shared": limit.shared,
        "halt": limit.halt,
        "note": limit.note,
    }


def _declaration(limit: Limit) -> dict[str, Json]:
    """Return what code declared, as a release without halts and notes writes it: to both it is the same declaration."""
    return {name: value for name, value in limit.to_json().items() if name not in ("halt", "note") or value}


def _partition_put(
    queue: str, key: str | Sequence[Json], *, subject: str = "partition", **settings: object
) -> Query[PartitionStatus]:
    params = {
        "at_once": None,
        "counted_max": COUNTED_MAX,
        "creates": True,
        "digest": key if isinstance(key, str) else None,
        "hold_seconds": None,
        "key_values": None if isinstance(key, str) else encode_json(list(key)),
        "now": None,
        "queue": queue,
        "resumes": False,
        "sets_at_once": False,
        "sets_hold": False,
        "weight": None,
        **settings,
    }

    def parse(rows: Sequence[Row]) -> PartitionStatus:
        if not rows:
            raise NotFound(
                f"{subject} of queue {queue!r}", key if isinstance(key, str) else encode_json(list(key))
            )
        return _parse_partition(rows[0])

    return Query("limit_partition_set", params, parse)


def _parse_partition(row: Row) -> PartitionStatus:
    return PartitionStatus(**dict(zip(PartitionStatus.__struct_fields__, row, strict=True)))


def _parse_rows(rows: Sequence[Row]) -> list[QueueLimit]:
    return [_parse_row(row) for row in rows]


def _parse_listed(row: Row) -> ListedLimit:
    queue, form, obeyed_form, *columns = row
    listed = ListedLimit(queue=queue, form=_decoded(form), obeyed_form=_decoded(obeyed_form))
    if columns[0] is None:
        return listed
    try:
        has_halts = columns[_HALT] is not None
        return msgspec.structs.replace(listed, row=_parse_row(columns), has_halts=has_halts)
    except ConfigError as error:  # written by another program
        return msgspec.structs.replace(listed, fault=str(error))


def _parse_row(row: Row) -> QueueLimit:
    (
        queue, at_once, at_once_per_client, total, by_args, by_kind, allowed, seconds, burst, in_order, is_shared,
        halt, note, declared, num_running, updated_at,
    ) = row  # fmt: skip
    limit = Limit(
        at_once=at_once,
        at_once_per_client=at_once_per_client,
        total=total,
        by_args=flat_texts(by_args),
        by_kind=by_kind,
        rate=None if allowed is None else _rate(allowed, seconds, burst),
        in_order=in_order,
        # A release without halts changes the order alone.
        halt=bool(halt and in_order),
        shared=is_shared,
        note=note,
    )
    return QueueLimit(
        queue=queue,
        limit=limit,
        declared=_parse_declared(declared),
        num_running=num_running,
        updated_at=updated_at,
    )


def _rate(allowed: int, seconds: float | None, burst: int | None) -> Rate:
    try:
        per = timedelta(seconds=seconds or 0)
    except (OverflowError, ValueError):  # infinity or NaN
        per = timedelta(0)
    return Rate(allowed, per=per, burst=burst or 0)


def _parse_declared(text: str | None) -> Limit | None:
    """Return what code declared; None for what another release wrote and this one cannot read."""
    fields = _decoded(text)
    try:
        return Limit.from_json(fields) if isinstance(fields, dict) else None
    except (ConfigError, KeyError, TypeError, OverflowError):
        return None


def _decoded(text: str | None) -> Json:
    return None if text is None else json.loads(text)
