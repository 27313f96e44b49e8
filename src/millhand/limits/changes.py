"""Changes of limits and their partitions on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from millhand.core.errors import ConfigError, NotFound
from millhand.core.job import Json
from millhand.core.limit import COUNT_MAX, PartitionStatus, Rate
from millhand.db.query import Query
from millhand.limits import control
from millhand.limits.control import WEIGHT_MAX, lock_limit
from millhand.limits.page import check_key
from millhand.limits.report_store import DIGEST, limit_count_jobs, limit_get_shape
from millhand.limits.store import (
    COUNTED_MAX,
    limit_lock,
    limit_partition_hold,
    limit_partition_release,
    limit_partition_resume,
    limit_partition_set,
    limit_remove,
)
from millhand.shells.web.change import Changed, ChangeRequest, record
from millhand.shells.web.form import decimal_seconds, seconds_of, whole_number
from millhand.shells.web.queue import queue_of

NEEDS_MIGRATION = "limits must have their tables, which are not there or not yours; run millhand migrate up"
NUMBERS = ("at_once", "at_once_per_client", "total")
RATE_FIELDS = ("rate_allowed", "rate_seconds", "rate_burst")


async def set_limit(request: ChangeRequest) -> Changed:
    """
    Set numbers of a queue's limit; an empty field is no such bound, and a missing one stays.

    The fields are `at_once`, `at_once_per_client`, `total`, `note`, and together `rate_allowed`, `rate_seconds` and
    `rate_burst`.
    A queue without a limit gets one. Raises: NotFound, ConfigError, ValueError.
    """
    queue = await _limited(request)
    given: dict[str, Any] = {name: _number(request, name) for name in NUMBERS if name in request.form}
    if any(name in request.form for name in RATE_FIELDS):
        given["rate"] = _rate(request)
    if "note" in request.form:
        given["note"] = request.field("note")
    async with request.database.driver.pool.begin() as tx:
        try:
            found = await control.set_limit(tx, queue, given)
        except ConfigError as error:
            raise ValueError(f"{error}") from error
        done = Changed(action="set", subject=f"limit of queue {queue}")
        await record(tx, request, done, {"limit": found.limit.to_json()})
    return done


async def reset_limit(request: ChangeRequest) -> Changed:
    """Set a queue's limit to what code declared last. Raises: NotFound, ConfigError."""
    queue = await _limited(request)
    async with request.database.driver.pool.begin() as tx:
        found = await control.reset_limit(tx, queue)
        done = Changed(action="reset", subject=f"limit of queue {queue}")
        await record(tx, request, done, {"limit": found.limit.to_json()})
    return done


async def remove_limit(request: ChangeRequest) -> Changed:
    """Remove a queue's limit; the jobs that wait for a slot become available. Raises: NotFound, ConfigError."""
    queue = await _limited(request)
    async with request.database.driver.pool.begin() as tx:
        await tx.run(limit_lock(queue))
        jobs = (await tx.run(limit_count_jobs([queue]))).get(queue)
        await tx.run(limit_remove(queue))
        num_waiting = min(jobs.num_waiting, COUNTED_MAX) if jobs else 0
        done = Changed(action="remove", subject=f"limit of queue {queue}", num_jobs=num_waiting)
        await record(tx, request, done, {"num_waiting": num_waiting})
    return done


async def set_partition(request: ChangeRequest) -> Changed:
    """
    Set `at_once` and `weight` of the partition `key`; an empty `at_once` is the limit's, and a missing field stays.

    `key` is the text of a JSON list, such as `["acme"]`. Raises: NotFound, ValueError, ConfigError.
    """
    at_once = _number(request, "at_once") if "at_once" in request.form else msgspec.UNSET
    text = request.field("weight")
    weight = whole_number("weight", text, maximum=WEIGHT_MAX) if text else None
    return await _change_partition(
        request,
        "set",
        lambda queue, key: limit_partition_set(queue, key, at_once=at_once, weight=weight),
        {"at_once": None if at_once is msgspec.UNSET else at_once, "weight": weight},
    )


async def hold_partition(request: ChangeRequest) -> Changed:
    """Start no job of the partition `key` for `seconds`; running jobs continue. Raises: as `set_partition`."""
    duration = seconds_of(request.field("seconds"))
    return await _change_partition(
        request,
        "hold",
        lambda queue, key: limit_partition_hold(queue, key, duration),
        {"seconds": duration / timedelta(seconds=1)},
    )


async def release_partition(request: ChangeRequest) -> Changed:
    """End the hold of the partition `key`. Raises: NotFound, ValueError, ConfigError."""
    return await _change_partition(request, "release", limit_partition_release, {}, is_known=True)


async def resume_partition(request: ChangeRequest) -> Changed:
    """End the halt of the partition `key`. Raises: NotFound, ValueError, ConfigError."""
    return await _change_partition(request, "resume", limit_partition_resume, {}, is_known=True)


async def _change_partition(
    request: ChangeRequest,
    action: str,
    query: Callable[[str, str | Sequence[Json]], Query[PartitionStatus]],
    detail: dict[str, Json],
    *,
    is_known: bool = False,
) -> Changed:
    queue, key = await _limited(request), request.field("key")
    async with request.database.driver.pool.begin() as tx:
        listed = await lock_limit(tx, queue)
        if listed.row is None:
            raise NotFound("limit of queue", queue)
        check_key(key, listed.row.limit, request.hide, is_known=is_known)
        await tx.run(_exact(query(queue, key if key.startswith(DIGEST) else ()), key))
        # The key has values of args. It is in the audit entry, but not in the log.
        done = Changed(action=action, subject=f"partition of queue {queue}")
        await record(tx, request, done, {**detail, "partition": key})
    return done


def _exact(query: Query[Any], key: str) -> Query[Any]:
    """Return the statement for a key as it was given: a number of Python may have other digits than PostgreSQL's."""
    if key.startswith(DIGEST):
        return query
    return msgspec.structs.replace(query, params={**query.params, "key_values": key})


async def _limited(request: ChangeRequest) -> str:
    """Return the queue's name. Raises: as `queue_of`; ConfigError without the tables of limits."""
    name = queue_of(request)
    if not await request.database.has(limit_get_shape):
        raise ConfigError(NEEDS_MIGRATION)
    return name


def _number(request: ChangeRequest, name: str) -> int | None:
    text = request.field(name)
    return whole_number(name, text, maximum=COUNT_MAX) if text else None


def _rate(request: ChangeRequest) -> Rate | None:
    """Return the rate; None if its fields are empty. Raises: ValueError."""
    allowed, per, burst = (request.field(name) for name in RATE_FIELDS)
    if not (allowed or per or burst):
        return None
    try:
        return Rate(
            whole_number("rate_allowed", allowed, maximum=COUNT_MAX),
            per=timedelta(seconds=decimal_seconds("rate_seconds", per)),
            burst=whole_number("rate_burst", burst, maximum=COUNT_MAX),
        )
    except (ConfigError, OverflowError) as error:
        raise ValueError(f"{error}") from error
