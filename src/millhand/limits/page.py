"""The limits of queues: what each allows, and how many jobs wait for it; on the page of a queue, its partitions too."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from millhand.core.job import Json
from millhand.core.limit import Limit, PartitionStatus, key_name, key_values
from millhand.engine.waiting_jobs import WaitingJobs
from millhand.limits.report_store import (
    DIGEST,
    LimitedJobs,
    limit_count_jobs,
    limit_get_shape,
    limit_partition_get,
    limit_partition_get_current,
)
from millhand.limits.store import COUNTED_MAX, ListedLimit, limit_list, limit_partition_list
from millhand.limits.waiting_jobs import WAITING_JOBS
from millhand.shells.web.database import WebDatabase
from millhand.shells.web.hiding import MARK, Hiding
from millhand.shells.web.page import PageRequest

PAGE_SIZE = 100
_DIGEST = re.compile(DIGEST + "[0-9a-f]{64}")
NO_JOBS = LimitedJobs(num_waiting=0, num_slots=0, num_later=0)


class LimitLine(msgspec.Struct, frozen=True, kw_only=True):
    """
    The limit of one queue.

    Attributes:
        values: The limit in force; None if its row is invalid, and `fault` says why.
        declared: What code declared last; None if the limit was only set at run time.
        num_waiting: How many jobs wait for a slot.
        num_slots: How many jobs have a slot.
        num_later: How many jobs of a shared queue wait for their time.
        updated_at: When the limit last changed.
    """

    queue: str
    values: Limit | None
    declared: Limit | None = None
    fault: str | None = None
    num_waiting: int = 0
    num_slots: int = 0
    num_later: int = 0
    updated_at: datetime | None = None


class PartitionLine(PartitionStatus, frozen=True, kw_only=True):
    """
    One partition. `name` is its values as a person reads them; it is empty if the limit makes no partitions.

    The key is empty if a rule hides a value of it, and the partition cannot be changed then.
    """

    name: str
    running: int = 0
    waiting: int = 0
    weight: int = 1
    at_once: int | None = None
    held_until: datetime | None = None
    next_start_at: datetime | None = None


class LimitPage(msgspec.Struct, frozen=True, kw_only=True):
    """The limit of one queue, its busiest partitions, and the one that `partition` of the URL names."""

    limit: LimitLine
    partitions: tuple[PartitionLine, ...] = ()
    partition: PartitionLine | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """
    Up to 100 limits by queue. A number of jobs above `counted_max` stands for any such number.

    `after` is the cursor of the next page, None after the last one. Without `is_there`, run `millhand migrate up`, or let
    the page's role read the tables of limits.
    """

    limits: tuple[LimitLine, ...]
    after: str | None = None
    counted_max: int = COUNTED_MAX
    is_there: bool = True


async def waiting_jobs_in(database: WebDatabase) -> WaitingJobs | None:
    """Return the jobs that wait for slots; None if the tables of limits are not there."""
    return WAITING_JOBS if await database.has(limit_get_shape) else None


async def load(request: PageRequest) -> Limits:
    """Load a page of limits."""
    if not await request.database.has(limit_get_shape):
        return Limits(limits=(), is_there=False)
    after, sees = request.query.get("after", ""), request.user.sees_queue
    listed = [
        one
        for one in await request.database.run(limit_list())
        if one.queue > after and sees(one.queue) and (one.row or one.fault)
    ]
    page = listed[:PAGE_SIZE]
    jobs = await request.database.run(limit_count_jobs([one.queue for one in page]))
    return Limits(
        limits=tuple(limit_line(one, jobs.get(one.queue)) for one in page),
        after=page[-1].queue if len(listed) > PAGE_SIZE else None,
    )


async def load_limit(request: PageRequest, queue: str) -> LimitPage | None:
    """Load the limit of a queue that the user sees; None if it has none. Raises: ValueError for an invalid partition."""
    if not await request.database.has(limit_get_shape):
        return None
    run = request.database.run
    listed = next((one for one in await run(limit_list(queue=queue)) if one.row or one.fault), None)
    if listed is None:
        return None
    line = limit_line(listed, (await run(limit_count_jobs([queue]))).get(queue))
    # A partition has jobs of every kind, and its key has values of their args.
    if listed.row is None or request.user.kinds is not None:
        return LimitPage(limit=line)
    limit = listed.row.limit
    found = await run(limit_partition_list(queue))
    key = request.query.get("partition") or ("[]" if is_undivided(limit) else "")
    one: PartitionLine | None = None
    if key:
        check_key(key, limit, request.hide, is_known=True)
        status = await run(limit_partition_get(queue, key))
        if status is None:
            check_key(key, limit, request.hide)
        if status and status.key not in await _current(request, queue, [status.key]):
            status = None  # a partition of another limit would confirm a guess
        one = (
            partition_line(status, limit, request.hide)
            if status
            else PartitionLine(queue=queue, name=key_name(key), key=key)
        )
    current = await _current(request, queue, [status.key for status in found])
    return LimitPage(
        limit=line,
        partitions=tuple(
            partition_line(status, limit, request.hide, is_current=status.key in current) for status in found
        ),
        partition=one,
    )


async def _current(request: PageRequest, queue: str, keys: Sequence[str]) -> Collection[str]:
    """Return the partitions of the limit as it is now; where no rule hides args, all."""
    if not request.hide.args:
        return keys
    current = await request.database.run(limit_partition_get_current(queue, keys))
    return current | {"[]"}


def limit_line(listed: ListedLimit, jobs: LimitedJobs | None) -> LimitLine:
    """Return the line of a limit."""
    row, jobs = listed.row, jobs or NO_JOBS
    return LimitLine(
        queue=listed.queue,
        values=None if row is None else row.limit,
        declared=None if row is None else row.declared,
        fault=listed.fault,
        num_waiting=jobs.num_waiting,
        num_slots=jobs.num_slots,
        num_later=jobs.num_later,
        updated_at=None if row is None else row.updated_at,
    )


def partition_line(
    status: PartitionStatus, limit: Limit, hide: Hiding, *, is_current: bool = True
) -> PartitionLine:
    """Return the line of a partition, without values that a rule hides."""
    shown = shown_key(status.key, limit.by_args, hide, by_kind=limit.by_kind, is_current=is_current)
    fields = msgspec.structs.asdict(status)
    return PartitionLine(
        **{**fields, "name": key_name(shown), "key": status.key if shown == status.key else ""}
    )


def is_undivided(limit: Limit) -> bool:
    """Return whether all jobs of the queue are one partition."""
    return not limit.by_args and not limit.by_kind


def shown_key(
    key: str, by_args: Sequence[str], hide: Hiding, *, by_kind: bool, is_current: bool = True
) -> str:
    """Return a partition's key with a mark in place of what a rule hides; of an earlier limit, that may be any value."""
    if not hide.args or (not by_args and key == "[]"):
        return key
    if not is_current:
        return MARK
    values = key_values(key)
    if values is None or len(values) != by_kind + len(by_args):  # a digest, or a key of an older limit
        return MARK
    args: Json = dict(zip(by_args, values[by_kind:], strict=True))
    text = msgspec.json.encode(args).decode()
    if (hidden := hide.json("args", text)) == text:
        return key
    return json.dumps([*values[:by_kind], *json.loads(hidden).values()], ensure_ascii=False)


def check_key(key: str, limit: Limit, hide: Hiding, *, is_known: bool = False) -> None:
    """
    Return if a key may be one of the limit's partitions, and no rule hides a value of it.

    A partition that `is_known` may be one of an earlier limit.
    A page with a hidden value would confirm a guess. Raises: ValueError.
    """
    num = limit.by_kind + len(limit.by_args)
    values = key_values(key)
    if (not _DIGEST.fullmatch(key)) if values is None else (len(values) != num and not is_known):
        raise ValueError(
            f"partition must be a JSON list of {num} values, such as "
            f"{json.dumps(['acme', 'eu', *'cdefgh'][:num])}, got {key!r}"
        )
    if shown_key(key, limit.by_args, hide, by_kind=limit.by_kind) != key:
        raise ValueError("partition must not have values that a rule hides; use millhand limit")
