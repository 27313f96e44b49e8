"""Statements that report on limits: how many jobs wait for slots, and the place of one job. Each is bounded by an index."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import msgspec

from millhand.core.job import JobId
from millhand.core.limit import PartitionStatus
from millhand.db.query import Query, Row
from millhand.engine.store.job_row import flat_texts
from millhand.engine.store.queue_load import DueKind
from millhand.limits.store import COUNTED_MAX

DIGEST = "sha256:"  # what the key of a partition with long values begins with


class LimitedJobs(msgspec.Struct, frozen=True, kw_only=True):
    """
    The jobs of a queue with a limit. A number above `COUNTED_MAX` stands for any such number.

    `num_waiting` wait for a slot, `num_slots` have one, and `num_later` wait for their time as pending jobs.
    """

    num_waiting: int
    num_slots: int
    num_later: int


class JobPlace(msgspec.Struct, frozen=True, kw_only=True):
    """
    The place of one job in the limit of its queue.

    Attributes:
        partition: The key of its partition.
        is_later: Whether it waits for its time, `due_at`, and not yet for a slot.
        has_slot: Whether it has a slot.
        running: How many jobs of its partition have slots, of `at_once`.
        num_running: How many jobs of all partitions have slots; counted only if the limit has a `total`.
        in_order: Whether the jobs of the partition run one after the other.
        is_current: Whether the limit as it is now makes this partition of the job; else one before it did.
        held_until: Until when its partition is held; None if it is not.
        halted_by: The job that failed finally and halted its partition; None if it is not halted.
        next_start_at: When the rate or a hold allows the next start of its partition; None if it allows one now.
        num_before: How many jobs of its partition wait before it, counted up to `COUNTED_MAX` + 1; None if it does not wait.
        behind: In order, the job that has the slot, or is first.
    """

    partition: str
    is_later: bool
    due_at: datetime | None
    has_slot: bool
    running: int
    at_once: int | None
    total: int | None
    num_running: int
    in_order: bool
    by_kind: bool
    by_args: tuple[str, ...]
    is_current: bool
    held_until: datetime | None
    halted_by: JobId | None
    next_start_at: datetime | None
    num_before: int | None
    behind: JobId | None


class HeldQueue(msgspec.Struct, frozen=True):
    """Held partitions of a limit in which jobs wait: the one that is held longest, and since when a job of them is due."""

    queue: str
    num_partitions: int
    key: str
    held_until: datetime
    due_at: datetime


def limit_get_shape() -> Query[bool]:
    """Return whether the tables of limits are there, with the columns of version 14, and may be read."""
    return Query("limit_get_shape", {}, lambda rows: bool(rows and rows[0][0]))


def limit_count_jobs(names: Collection[str]) -> Query[dict[str, LimitedJobs]]:
    """Return the limited jobs of those of the queues that have a limit."""
    params = {"counted_max": COUNTED_MAX, "names": list(names)}
    return Query("limit_count_jobs", params, lambda rows: dict(map(_parse_jobs, rows)))


def limit_get_due_kinds(names: Collection[str], *, limit: int) -> Query[list[DueKind]]:
    """
    Return the kinds of the jobs that are next in up to `limit` open partitions of each queue.

    In order, a job of a kind that no client works keeps all others of its partition waiting.
    """
    params = {"limit": limit, "names": list(names)}
    return Query("limit_get_due_kinds", params, lambda rows: [DueKind(*row) for row in rows])


def limit_partition_get(queue: str, key: str) -> Query[PartitionStatus | None]:
    """Return one partition by its key, the text of a JSON array or a digest; None if no job of it came yet."""
    is_digest = key.startswith(DIGEST)
    params = {
        "counted_max": COUNTED_MAX,
        "digest": key if is_digest else None,
        "key_values": None if is_digest else key,
        "now": None,
        "queue": queue,
    }
    names = PartitionStatus.__struct_fields__
    return Query(
        "limit_partition_get",
        params,
        lambda rows: PartitionStatus(**dict(zip(names, rows[0], strict=True))) if rows else None,
    )


def limit_partition_get_current(queue: str, keys: Collection[str]) -> Query[frozenset[str]]:
    """Return those of the partitions that a job makes by the limit as it is now; others may be of a limit before it."""
    params = {"counted_max": COUNTED_MAX, "keys": list(keys), "queue": queue}
    return Query("limit_partition_get_current", params, lambda rows: frozenset(row[0] for row in rows))


def limit_get_changes() -> Query[str]:
    """Return a text that changes with limits, holds and the rate's next starts."""
    return Query("limit_get_changes", {}, lambda rows: rows[0][0] or "")


def limit_get_place(id: JobId) -> Query[JobPlace | None]:
    """Return a job's place; None if its queue has no limit, or it neither waits for a slot nor has one."""
    params = {"counted_max": COUNTED_MAX, "id": id, "now": None}
    return Query("limit_get_place", params, lambda rows: _parse_place(rows[0]) if rows else None)


def _parse_jobs(row: Row) -> tuple[str, LimitedJobs]:
    queue, num_waiting, num_slots, num_later = row
    return queue, LimitedJobs(num_waiting=num_waiting, num_slots=num_slots, num_later=num_later)


def _parse_place(row: Row) -> JobPlace:
    fields = dict(zip(JobPlace.__struct_fields__, row, strict=True))
    return JobPlace(**{**fields, "by_args": flat_texts(fields["by_args"])})


def limit_list_held(*, limit: int) -> Query[list[HeldQueue]]:
    """Return the queues with held partitions in which jobs wait, of those `limit` partitions of a queue that open last."""
    return Query("limit_list_held", {"limit": limit}, lambda rows: [HeldQueue(*row) for row in rows])
