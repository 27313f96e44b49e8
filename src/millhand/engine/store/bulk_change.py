"""Changes of many jobs: what was asked, the ids that were collected, and what became of them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from millhand.core.errors import MillhandError, NotFound
from millhand.core.job import JobId, Json
from millhand.db.query import Query, Row, parse_none
from millhand.engine.store.job_row import encode_json, parse_object

LIST_LIMIT = 100
# A process that is killed loses what it holds after this time.
PATIENCE = timedelta(seconds=30)


class BulkAction(enum.StrEnum):
    """What is done to each job."""

    CANCEL = "cancel"
    DELETE = "delete"
    RETRY = "retry"


class BulkState(enum.StrEnum):
    """
    The state of a change of many jobs.

        collecting ──▶ ready ──▶ running ──▶ completed
                         ▲          │
                         └─ stopped ◀┘
    """

    COLLECTING = "collecting"  # the search reads which jobs it is about; no job is changed
    READY = "ready"  # it waits for its user to start it
    RUNNING = "running"
    STOPPED = "stopped"  # by a user, or because too many jobs failed again; it can be started again
    COMPLETED = "completed"


class BulkChange(msgspec.Struct, frozen=True, kw_only=True):
    """
    A change of many jobs.

    `kinds` and `queues` count the collected jobs. `skipped` counts the jobs that were left, by reason. `started_at` is of
    the last start. `stop_reason` of an unfinished change is why its last batch failed.
    """

    id: int
    created_at: datetime
    action: BulkAction
    search: str
    time_zone: str
    only_queues: tuple[str, ...] | None
    only_kinds: tuple[str, ...] | None
    actor: str
    state: BulkState
    collected_to: str | None
    num_jobs: int
    kinds: dict[str, int]
    queues: dict[str, int]
    num_changed: int
    num_skipped: int
    skipped: dict[str, int]
    jobs_per_second: int | None
    started_at: datetime | None
    finished_at: datetime | None
    stop_reason: str | None

    @property
    def num_left(self) -> int:
        """How many jobs are neither changed nor skipped."""
        return self.num_jobs - self.num_changed - self.num_skipped


class Batch(msgspec.Struct, frozen=True):
    """Jobs that are changed in one transaction."""

    number: int
    job_ids: list[JobId]


class Outcomes(msgspec.Struct, frozen=True):
    """Attempts of changed jobs that have ended since the start."""

    num_ended: int
    num_failed: int


class JobsChanged(msgspec.Struct, frozen=True):
    """The jobs that were changed, and those that were not because another job holds their unique key."""

    ids: list[JobId]
    conflicting: list[JobId]


class NotStartable(MillhandError):
    """The change is in a state in which it can be neither started nor stopped."""

    def __init__(self, id: int, rule: str) -> None:
        super().__init__(f"bulk change must be {rule}, got bulk change {id}, which is not")
        self.id = id


def bulk_change_get_shape() -> Query[bool]:
    """Return whether the tables are there."""
    return Query("bulk_change_get_shape", {}, lambda rows: bool(rows[0][0]))


def bulk_change_insert(
    *,
    action: BulkAction,
    search: str,
    time_zone: str,
    only_queues: Sequence[str] | None,
    only_kinds: Sequence[str] | None,
    actor: str,
    role: str,
    address: str,
) -> Query[BulkChange]:
    """Begin a change; a process of the page then collects its jobs."""
    params = {
        "action": action.value,
        "actor": actor,
        "address": address,
        "only_kinds": None if only_kinds is None else list(only_kinds),
        "only_queues": None if only_queues is None else list(only_queues),
        "role": role,
        "search": search,
        "time_zone": time_zone,
    }
    return Query("bulk_change_insert", params, lambda rows: _parse(rows[0]))


def bulk_change_get(id: int) -> Query[BulkChange]:
    """Return one change. Raises: NotFound."""
    return Query("bulk_change_get", {"id": id}, lambda rows: _one(id, rows))


def bulk_change_list(*, limit: int = LIST_LIMIT) -> Query[list[BulkChange]]:
    """Return the newest changes."""
    return Query("bulk_change_list", {"limit": limit}, lambda rows: [_parse(row) for row in rows])


def bulk_change_claim(holder: str) -> Query[BulkChange | None]:
    """Take an unfinished change that no living process holds. Concurrency: safe to race."""
    params = {"holder": holder, "patience": PATIENCE}
    return Query("bulk_change_claim", params, lambda rows: _parse(rows[0]) if rows else None)


def bulk_change_hold(change: BulkChange, holder: str) -> Query[bool]:
    """Lock a change until the end of the transaction; False if it has another holder or state by now."""
    params = {"holder": holder, "id": change.id, "patience": PATIENCE, "state": change.state.value}
    return Query("bulk_change_hold", params, bool)


def bulk_change_collect(
    change: BulkChange,
    job_ids: Sequence[JobId],
    *,
    collected_to: str | None,
    kinds: Mapping[str, int],
    queues: Mapping[str, int],
) -> Query[None]:
    """Keep a batch of ids and the numbers of all of them; None for `collected_to` ends the collecting."""
    params = {
        "collected_to": collected_to,
        "id": change.id,
        "job_ids": list(job_ids),
        "kinds": _encode(kinds),
        "queues": _encode(queues),
    }
    return Query("bulk_change_collect", params, parse_none)


def bulk_change_start(id: int, *, jobs_per_second: int | None) -> Query[BulkChange]:
    """Let a change run. Raises: NotStartable."""
    params = {"id": id, "jobs_per_second": jobs_per_second}
    return Query("bulk_change_start", params, lambda rows: _changed(id, rows, "ready or stopped"))


def bulk_change_stop(id: int, *, reason: str) -> Query[BulkChange]:
    """Stop a change. Raises: NotStartable."""
    params = {"id": id, "reason": reason}
    return Query("bulk_change_stop", params, lambda rows: _changed(id, rows, "unfinished"))


def bulk_change_delay(change: BulkChange, holder: str, *, reason: str) -> Query[bool]:
    """Leave a change alone for a while, because its batch failed; False if it has another holder or is finished by now."""
    params = {"holder": holder, "id": change.id, "patience": PATIENCE, "reason": reason}
    return Query("bulk_change_delay", params, bool)


def bulk_change_next_batch(id: int, *, limit: int) -> Query[Batch | None]:
    """Return up to `limit` jobs of the next batch, or None after the last one."""
    params = {"id": id, "limit": limit}
    return Query("bulk_change_next_batch", params, lambda rows: Batch(*rows[0]) if rows else None)


def bulk_change_record(
    change: BulkChange, batch: Batch, changed_ids: Sequence[JobId], skipped: Mapping[str, int]
) -> Query[None]:
    """Record what was done to a batch, in the transaction that did it; `skipped` has the sums over all batches."""
    params = {
        "changed_ids": list(changed_ids),
        "id": change.id,
        "num_done": len(batch.job_ids),
        "num_skipped": len(batch.job_ids) - len(changed_ids),
        "number": batch.number,
        "skipped": _encode(skipped),
    }
    return Query("bulk_change_record", params, parse_none)


def bulk_change_complete(change: BulkChange, holder: str) -> Query[bool]:
    """Mark a change as completed; False if it has another holder or state by now."""
    return Query("bulk_change_complete", {"holder": holder, "id": change.id}, bool)


def bulk_change_get_outcomes(change: BulkChange, *, limit: int) -> Query[Outcomes]:
    """Return what became of the first changed jobs, at most `limit`."""
    params = {"batches": limit, "id": change.id, "limit": limit, "since": change.started_at}
    return Query("bulk_change_get_outcomes", params, lambda rows: Outcomes(*rows[0]))


def bulk_change_delete_old(*, finished_before: datetime, ready_before: datetime, limit: int) -> Query[None]:
    """Delete up to `limit` changes that finished, or were made and never started, before an instant."""
    params = {"finished_before": finished_before, "limit": limit, "ready_before": ready_before}
    return Query("bulk_change_delete_old", params, parse_none)


def job_change_many(
    action: BulkAction, ids: Sequence[JobId], *, keeps_pending: bool = True, now: datetime | None = None
) -> Query[JobsChanged]:
    """
    Change jobs of which the state allows it, and return their ids. With `keeps_pending`, a retry leaves pending jobs.

    Units: None for `now` means the database's time.
    Raises: DriverError with the constraint's name if another job takes a unique key meanwhile.
    """
    params: dict[str, object] = {"ids": sorted(ids)}
    if action is BulkAction.DELETE:
        return Query("job_delete_ids", params, _parse_changed)
    if action is BulkAction.CANCEL:
        return Query("job_cancel_many", {**params, "now": now}, _parse_changed)
    return Query("job_retry_many", {**params, "keeps_pending": keeps_pending, "now": now}, _parse_retried)


def _parse_changed(rows: Sequence[Row]) -> JobsChanged:
    return JobsChanged([JobId(row[0]) for row in rows], [])


def _parse_retried(rows: Sequence[Row]) -> JobsChanged:
    ids: tuple[list[JobId], list[JobId]] = [], []
    for id, is_conflicting in rows:
        ids[is_conflicting].append(id)
    return JobsChanged(*ids)


def _one(id: int, rows: Sequence[Row]) -> BulkChange:
    if not rows:
        raise NotFound("bulk change", id)
    return _parse(rows[0])


def _changed(id: int, rows: Sequence[Row], rule: str) -> BulkChange:
    if not rows:
        raise NotStartable(id, rule)
    return _parse(rows[0])


def _parse(row: Row) -> BulkChange:
    fields = dict(zip(BulkChange.__struct_fields__, row, strict=True))
    for name in ("kinds", "queues", "skipped"):
        fields[name] = _counts(fields[name])
    for name in ("only_queues", "only_kinds"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    fields |= {"action": BulkAction(fields["action"]), "state": BulkState(fields["state"])}
    return BulkChange(**fields)


def _encode(counts: Mapping[str, int]) -> str:
    plain: dict[str, Json] = {**counts}
    return encode_json(plain)


def _counts(text: str) -> dict[str, int]:
    return {name: value for name, value in parse_object(text).items() if isinstance(value, int)}
