"""
Statements about the jobs of limited queues: they insert them, let them wait, admit them, and release their slots.

`limited_job.sql` has the order of locks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import msgspec

from millhand.core.insert_opts import InsertParams, InsertResult
from millhand.core.job import ClientId, JobId, JobRow, JobState
from millhand.core.transition import StateChange
from millhand.db.query import Query, Row, parse_count, parse_none
from millhand.engine.store.fetched_job import COLUMNS as FETCHED_COLUMNS
from millhand.engine.store.job import (
    job_complete_many,
    job_delete_completed_many,
    job_get_available,
    job_set_state_if_running_many,
)
from millhand.engine.store.job_insert import job_insert_many_unique
from millhand.engine.store.job_row import parse_jobs
from millhand.engine.store.job_snooze import job_snooze

# An admission looks at so many partitions, or at one for each job if it may admit more.
PARTITIONS_MIN = 10
BATCH_SIZE = 1_000
MAINTENANCE_BATCH_SIZE = 10_000
_NUM_FETCHED_COLUMNS = len(FETCHED_COLUMNS)
_WAITING = frozenset({JobState.AVAILABLE, JobState.RETRYABLE, JobState.SCHEDULED})


class Collected(msgspec.Struct, frozen=True):
    """
    How many available jobs a collect let wait, and how many arrivals and partitions it found.

    `is_contended` says that it left arrivals that another collect had locked, or more than its limit, and
    `has_locked_jobs` that it left available jobs that others had locked.
    """

    num_jobs: int
    num_arrivals: int
    num_partitions: int
    is_contended: bool
    has_locked_jobs: bool


class Admission(msgspec.Struct, frozen=True):
    """
    The jobs that were admitted, in the order of a fetch, and the partition of each under a limit of each client.

    `opens_in_seconds` is when the next of the partitions opens that this admission has closed for a rate or a hold; None if
    there is none. `has_more` says that another admission may find jobs now, `has_open` that it may if it asks for more, and
    `is_contended` that it may after the
    statements of other clients that had partitions locked. `num_stale` is how many rows of jobs that wait no more were
    deleted. `has_uncollected` says that a limit in order has available jobs, so that a collect comes before later ones.
    """

    jobs: list[JobRow]
    partition_keys: Mapping[JobId, str]
    opens_in_seconds: float | None
    has_more: bool
    has_open: bool
    is_contended: bool
    num_stale: int
    has_uncollected: bool


class CompletedAndAdmitted(msgspec.Struct, frozen=True):
    """The ids of the jobs that were completed, and the admission."""

    completed_ids: list[JobId]
    admission: Admission


class Admitted(msgspec.Struct, frozen=True):
    """How many jobs were made available; the other fields are those of `Admission`."""

    num_jobs: int
    opens_in_seconds: float | None
    has_more: bool
    has_open: bool
    is_contended: bool
    num_stale: int
    has_uncollected: bool


def limited_job_insert_many(
    params: Sequence[InsertParams], *, notify_queues: Collection[str] = (), now: datetime | None = None
) -> Query[list[InsertResult]]:
    """
    Insert jobs as `job_insert_many`; those of limited queues wait for slots as pending jobs.

    Concurrency: locks no row of another job, limit or partition.
    """
    query = job_insert_many_unique(params, notify_queues=notify_queues, now=now)
    return msgspec.structs.replace(query, name="limited_job_insert_many")


def limited_job_collect(
    queue: str, *, kinds: Sequence[str] | None = None, limit: int = BATCH_SIZE, now: datetime | None = None
) -> Query[Collected]:
    """
    Let up to `limit` due available jobs wait for slots, and open up to `limit` partitions to which jobs came.

    Only jobs of `kinds`: workers in other languages take the others as they are. All jobs, if `kinds` is None, if these
    workers share the queue, or if the limit is in order. It does nothing if the queue has no limit. Concurrency: skips what
    another collect has locked.
    """
    params = {"kinds": kinds, "limit": limit, "now": now, "queue": queue}
    return Query("limited_job_collect", params, lambda rows: Collected(*rows[0]))


def limited_job_admit(
    *,
    queue: str,
    limit: int,
    client_id: ClientId,
    kinds: Sequence[str] | None = None,
    num_running_here: Mapping[str, int] | None = None,
    now: datetime | None = None,
) -> Query[Admission]:
    """
    Give slots to up to `limit` waiting jobs and mark them running, as a fetch does.

    `num_running_here` has the number of this client's running jobs by partition, for a limit of each client.
    Concurrency: skips partitions that others admit from, so concurrent callers never wait for each other, except under a
    total. Do not cancel it once sent.
    """
    fetch = job_get_available(queue=queue, limit=limit, client_id=client_id, kinds=kinds, now=now)
    params = {**fetch.params, **_admission_params(limit, num_running_here or {})}

    def parse(rows: Sequence[Row]) -> Admission:
        partition_key, *figures = rows[0][_NUM_FETCHED_COLUMNS:]
        jobs = fetch.parse(rows) if rows[0][0] is not None else []
        keys = {row[0]: row[_NUM_FETCHED_COLUMNS] for row in rows} if partition_key is not None else {}
        return Admission(jobs, keys, *figures)

    return Query("limited_job_admit", params, parse)


def limited_job_admit_available(*, queue: str, limit: int, now: datetime | None = None) -> Query[Admitted]:
    """Give slots to up to `limit` waiting jobs and make them available, for the workers of other languages."""
    params = {"kinds": None, "limit": limit, "now": now, "queue": queue, **_admission_params(limit, {})}

    def parse(rows: Sequence[Row]) -> Admitted:
        num_jobs, _, *figures = rows[0]
        return Admitted(num_jobs, *figures)

    return Query("limited_job_admit_available", params, parse)


def limited_job_get_available(
    *,
    queue: str,
    limit: int,
    client_id: ClientId,
    kinds: Sequence[str] | None = None,
    now: datetime | None = None,
) -> Query[list[JobRow]]:
    """Fetch available jobs as `job_get_available`, but only those that have slots."""
    fetch = job_get_available(queue=queue, limit=limit, client_id=client_id, kinds=kinds, now=now)
    return msgspec.structs.replace(fetch, name="limited_job_get_available")


def limited_job_complete_many(
    *,
    client_id: ClientId,
    ids: Sequence[JobId],
    attempted_ats: Sequence[datetime],
    finalized_ats: Sequence[datetime],
) -> Query[list[JobId]]:
    """Complete jobs as `job_complete_many`, and release their slots."""
    query = job_complete_many(
        client_id=client_id, ids=ids, attempted_ats=attempted_ats, finalized_ats=finalized_ats
    )
    return msgspec.structs.replace(query, name="limited_job_complete_many")


def limited_job_complete_and_admit(
    *,
    queue: str,
    limit: int,
    client_id: ClientId,
    ids: Sequence[JobId],
    attempted_ats: Sequence[datetime],
    finalized_ats: Sequence[datetime],
    kinds: Sequence[str] | None = None,
    now: datetime | None = None,
) -> Query[CompletedAndAdmitted]:
    """
    Complete jobs of one queue as `limited_job_complete_many`, and admit jobs as `limited_job_admit`.

    It changes nothing unless the limit is only `at_once`, by partition: no rate, no total, nothing in order or by client. A
    caller completes with another statement what this one did not complete. Rows of jobs that wait no more stay.
    Concurrency: skips jobs that others have locked, and waits for the partitions of the completed jobs. Do not cancel it
    once sent.
    """
    complete = job_complete_many(
        client_id=client_id, ids=ids, attempted_ats=attempted_ats, finalized_ats=finalized_ats
    )
    fetch = job_get_available(queue=queue, limit=limit, client_id=client_id, kinds=kinds, now=now)
    params = {**complete.params, **fetch.params, "num_partitions": max(limit, PARTITIONS_MIN)}

    def parse(rows: Sequence[Row]) -> CompletedAndAdmitted:
        completed_ids, opens_in_seconds, has_more, has_open, is_contended = rows[0][_NUM_FETCHED_COLUMNS:]
        jobs = fetch.parse(rows[1:])
        admission = Admission(
            jobs, {}, opens_in_seconds, has_more, has_open, is_contended, num_stale=0, has_uncollected=False
        )
        return CompletedAndAdmitted(completed_ids, admission)

    return Query("limited_job_complete_and_admit", params, parse)


def limited_job_delete_completed_many(
    *, client_id: ClientId, ids: Sequence[JobId], attempted_ats: Sequence[datetime]
) -> Query[list[JobId]]:
    """Delete jobs as `job_delete_completed_many`, and release their slots."""
    query = job_delete_completed_many(client_id=client_id, ids=ids, attempted_ats=attempted_ats)
    return msgspec.structs.replace(query, name="limited_job_delete_completed_many")


def limited_job_set_state_if_running_many(
    changes: Sequence[StateChange],
    *,
    awaited_ids: Collection[JobId] = (),
    shared_ids: Collection[JobId] = (),
    now: datetime | None = None,
) -> Query[list[JobRow]]:
    """
    Write outcomes as `job_set_state_if_running_many`, and release the slots.

    Jobs of `shared_ids` that wait for another attempt wait as pending; their rows are returned in the state of the change.
    """
    by_id = {change.id: change for change in changes if change.id in shared_ids and change.state in _WAITING}
    written = [
        msgspec.structs.replace(change, state=JobState.PENDING) if change.id in by_id else change
        for change in changes
    ]
    holds = [change for change in changes if change.holds_partition and change.scheduled_at is not None]
    query = job_set_state_if_running_many(written, awaited_ids=awaited_ids, now=now)
    params = {
        **query.params,
        "held_ids": [change.id for change in holds],
        "held_untils": [change.scheduled_at for change in holds],
    }

    def parse(rows: Sequence[Row]) -> list[JobRow]:
        return [
            msgspec.structs.replace(row, state=by_id[row.id].state)
            if row.state is JobState.PENDING and row.id in by_id
            else row
            for row in query.parse(rows)
        ]

    return Query("limited_job_set_state_if_running_many", params, parse)


def limited_job_is_due(queues: Sequence[str], *, until: datetime) -> Query[bool]:
    """
    Return whether a job of limited queues waits for a slot, or will before an instant.

    Jobs of a partition that a hold or a rate closes beyond that instant do not count.
    """
    params = {"queues": list(queues), "until": until}
    return Query("limited_job_is_due", params, lambda rows: bool(rows[0][0]))


def limited_job_release_ended(*, limit: int = MAINTENANCE_BATCH_SIZE) -> Query[int]:
    """Release the slots of jobs that ended without Millhand's completer, and return their number."""
    return Query("limited_job_release_ended", {"limit": limit}, parse_count)


def limited_job_wait_again(*, limit: int = MAINTENANCE_BATCH_SIZE, now: datetime | None = None) -> Query[int]:
    """Let due jobs of queues in order, which kept their slots, wait for a slot again; return their number."""
    return Query("limited_job_wait_again", {"limit": limit, "now": now}, parse_count)


def limited_job_order(*, limit: int = MAINTENANCE_BATCH_SIZE) -> Query[int]:
    """Let jobs of queues in order that waited before the limit was in order wait by id; return their number."""
    return Query("limited_job_order", {"limit": limit}, parse_count)


def limited_job_park(*, limit: int = MAINTENANCE_BATCH_SIZE, now: datetime | None = None) -> Query[int]:
    """Let retryable and scheduled jobs of shared queues wait as pending without a slot; return their number."""
    return Query("limited_job_park", {"limit": limit, "now": now}, parse_count)


def limited_job_begin_to_wait(
    *, limit: int = MAINTENANCE_BATCH_SIZE, now: datetime | None = None
) -> Query[int]:
    """Let later jobs that are due wait for slots; return their number."""
    return Query("limited_job_begin_to_wait", {"limit": limit, "now": now}, parse_count)


def limited_job_adopt_pending(
    queue: str, *, limit: int = MAINTENANCE_BATCH_SIZE, now: datetime | None = None
) -> Query[int]:
    """
    Let pending jobs of a shared queue that a Go client inserted so wait for slots; return their number.

    It reads all pending jobs of the queue.
    """
    return Query("limited_job_adopt_pending", {"limit": limit, "now": now, "queue": queue}, parse_count)


def limited_job_adopt_newest(
    queue: str, *, num_read: int, limit: int = MAINTENANCE_BATCH_SIZE, now: datetime | None = None
) -> Query[int]:
    """Let pending jobs wait as `limited_job_adopt_pending` does, but look only at the newest `num_read` jobs of all."""
    params = {"limit": limit, "now": now, "num_read": num_read, "queue": queue}
    return Query("limited_job_adopt_newest", params, parse_count)


def limited_job_retry_many(ids: Sequence[JobId], *, now: datetime | None = None) -> Query[list[JobRow]]:
    """
    Let pending jobs of limited queues that wait for their time wait for slots; return those that wait for slots now.

    One that waits for a slot keeps its place.
    """
    return Query("limited_job_retry_many", {"ids": list(ids), "now": now}, parse_jobs)


def limited_job_snooze(id: JobId, until: datetime) -> Query[JobRow]:
    """
    Let a job that waits for a slot wait until an instant.

    It is scheduled then, or in a queue that Go workers share still pending. Raises: NotFound, JobNotWaiting.
    """
    return msgspec.structs.replace(job_snooze(id, until), name="limited_job_snooze")


def limited_job_get_partition_keys(ids: Collection[JobId]) -> Query[dict[JobId, str]]:
    """Return the partitions of those of the jobs that have slots."""
    return Query(
        "limited_job_get_partition_keys", {"ids": list(ids)}, lambda rows: {row[0]: row[1] for row in rows}
    )


def limited_job_get_unlimited() -> Query[list[str]]:
    """Return the queues without a limit in which jobs still wait for slots."""
    return Query("limited_job_get_unlimited", {}, lambda rows: [row[0] for row in rows])


def limited_job_free(queue: str, *, limit: int = MAINTENANCE_BATCH_SIZE) -> Query[int]:
    """
    Make up to `limit` waiting jobs of a queue available, unless it has a limit again.

    Return how many jobs wait no more.
    """
    return Query("limited_job_free", {"limit": limit, "queue": queue}, parse_count)


def limited_job_leave(queue: str, *, kinds: Sequence[str], limit: int = MAINTENANCE_BATCH_SIZE) -> Query[int]:
    """
    Make up to `limit` waiting jobs available that have none of `kinds`, so that workers in other languages take them.

    It reads all jobs that wait in the queue, and does nothing in order or if these workers share the queue. Return how many
    jobs wait no more.
    """
    return Query("limited_job_leave", {"kinds": kinds, "limit": limit, "queue": queue}, parse_count)


def limit_partition_delete_idle(*, horizon: datetime, limit: int = MAINTENANCE_BATCH_SIZE) -> Query[int]:
    """Delete partitions in which nothing ran, waited or was set since the horizon; return their number."""
    return Query("limit_partition_delete_idle", {"horizon": horizon, "limit": limit}, parse_count)


def limit_partition_get_differing(*, limit: int = BATCH_SIZE) -> Query[list[tuple[str, str]]]:
    """Return the queue and key of partitions whose number of slots does not agree with the jobs that have slots."""
    return Query(
        "limit_partition_get_differing", {"limit": limit}, lambda rows: [(row[0], row[1]) for row in rows]
    )


def limit_partition_lock(queue: str, partition_key: str) -> Query[None]:
    """Lock a partition until the end of the transaction."""
    return Query("limit_partition_lock", {"partition_key": partition_key, "queue": queue}, parse_none)


def limit_partition_correct(queue: str, partition_key: str) -> Query[bool]:
    """Correct the number of slots of a locked partition; return whether it was wrong."""
    return Query("limit_partition_correct", {"partition_key": partition_key, "queue": queue}, bool)


def limit_lock_totals() -> Query[None]:
    """Lock the limits that have a total until the end of the transaction."""
    return Query("limit_lock_totals", {}, parse_none)


def limit_correct_totals() -> Query[list[str]]:
    """Correct the numbers of slots of locked limits with a total; return the queues whose number was wrong."""
    return Query("limit_correct_totals", {}, lambda rows: [row[0] for row in rows])


def _admission_params(limit: int, num_running_here: Mapping[str, int]) -> dict[str, object]:
    return {
        "keys_here": list(num_running_here),
        "num_partitions": max(limit, PARTITIONS_MIN),
        "num_running_here": list(num_running_here.values()),
    }
