"""Statements for schedules that the database keeps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import NamedTuple

from millhand.core.errors import NotFound
from millhand.core.job import JobId
from millhand.core.schedule import JobSchedule, ScheduleRow, decode_schedule, encode_schedule
from millhand.db.query import Query, Row, parse_count, parse_none

LIST_MAX = 1_000


class DueSchedule(NamedTuple):
    """A locked schedule that is due, the job of its last run, and the database's time."""

    id: str
    definition: str
    due_at: datetime
    last_job_id: JobId | None
    now: datetime


class Move(NamedTuple):
    """The end of a due instant: where the schedule moves, and what was inserted."""

    id: str
    due_at: datetime
    next_run_at: datetime | None
    last_due_at: datetime
    last_job_id: JobId | None
    num_runs: int


class LockedSchedule(NamedTuple):
    """A locked schedule, and the database's time."""

    row: ScheduleRow
    now: datetime


def schedule_lock_due(
    *, limit: int, excluded: Collection[str] = (), now: datetime | None = None
) -> Query[list[DueSchedule]]:
    """Lock schedules that are due until the end of the transaction, and return them. Concurrency: skips locked ones."""

    def parse(row: Row) -> DueSchedule:
        *values, _ = row
        return DueSchedule(*values)

    params = {"limit": limit, "excluded": list(excluded), "now": now}
    return Query("schedule_lock_due", params, lambda rows: [parse(row) for row in rows])


def schedule_move(moves: Sequence[Move]) -> Query[int]:
    """Move schedules to their next instants, unless they were moved before; return how many were."""
    params: dict[str, object] = {
        name: [*map(attrgetter(name), moves)] for name in Move._fields if name != "id"
    }
    return Query("schedule_move", {"ids": [one.id for one in moves], **params}, parse_count)


def schedule_get_next_seconds(
    *, excluded: Collection[str] = (), now: datetime | None = None
) -> Query[float | None]:
    """Return the seconds to the next due instant of all schedules, negative for a late one; None without one."""
    params = {"excluded": list(excluded), "now": now}
    return Query("schedule_get_next_seconds", params, lambda rows: rows[0][0])


def schedule_list(
    *, ids: Collection[str] | None = None, after: str = "", limit: int = LIST_MAX
) -> Query[list[ScheduleRow]]:
    """Return schedules by id: those of `ids`, or all after an id."""
    params = {"ids": None if ids is None else list(ids), "after": after, "limit": limit}
    return Query("schedule_list", params, lambda rows: [_parse(row) for row in rows])


def schedule_insert_missing(schedules: Sequence[JobSchedule]) -> Query[None]:
    """Insert schedules that are never due, unless they exist; `schedule_update` writes their instants."""
    params = {"ids": [one.id for one in schedules], "definitions": [*map(encode_schedule, schedules)]}
    return Query("schedule_insert_missing", params, parse_none)


def schedule_lock(ids: Collection[str], *, now: datetime | None = None) -> Query[list[LockedSchedule]]:
    """Lock schedules until the end of the transaction, and return them by id."""
    return Query(
        "schedule_lock",
        {"ids": list(ids), "now": now},
        lambda rows: [LockedSchedule(_parse(row[:-1]), row[-1]) for row in rows],
    )


def schedule_update(
    rows: Sequence[ScheduleRow],
    *,
    definitions: Sequence[JobSchedule] = (),
    declared: Sequence[JobSchedule] = (),
) -> Query[None]:
    """Write instants and pauses of locked rows, and wake the leader; with `definitions`, one for each row, also these."""
    nothing = [None] * len(rows)
    params = {
        "ids": [row.schedule.id for row in rows],
        "definitions": [*map(encode_schedule, definitions)] or nothing,
        "declared": [*map(encode_schedule, declared)] or nothing,
        **{name: [*map(attrgetter(name), rows)] for name in ("next_run_at", "paused_at")},
    }
    return Query("schedule_update", params, parse_none)


def schedule_set_declared_at(ids: Collection[str]) -> Query[None]:
    """Record that a client declares these schedules."""
    return Query("schedule_set_declared_at", {"ids": list(ids)}, parse_none)


def schedule_remove(id: str) -> Query[None]:
    """Delete a schedule. Raises: NotFound."""

    def parse(rows: Sequence[Row]) -> None:
        if not parse_count(rows):
            raise NotFound("schedule", id)

    return Query("schedule_remove", {"id": id}, parse)


def schedule_set_last_job(id: str, job_id: JobId) -> Query[None]:
    """Record the job of a run that a person inserted."""
    return Query("schedule_set_last_job", {"id": id, "job_id": job_id}, parse_none)


def schedule_list_undeclared(*, age: timedelta) -> Query[list[str]]:
    """Return up to 100 ids of schedules that code declared, but no client for this long."""
    return Query("schedule_list_undeclared", {"age": age}, lambda rows: [row[0] for row in rows])


def schedule_get_shape() -> Query[bool]:
    """Return whether the table of schedules is there, and may be read."""
    return Query("schedule_get_shape", {}, lambda rows: bool(rows[0][0]))


def schedule_list_kept(ids: Collection[str]) -> Query[dict[str, bool]]:
    """Return those of `ids` that schedules have, each with whether it is late: due a minute ago, and not paused."""
    return Query("schedule_list_kept", {"ids": list(ids)}, lambda rows: dict(map(tuple, rows)))


def _parse(row: Row) -> ScheduleRow:
    id, definition, declared, declared_at, next_run_at, last_due_at, last_job_id, num_runs, paused_at = row
    return ScheduleRow(
        schedule=decode_schedule(id, definition),
        declared=None if declared is None else decode_schedule(id, declared),
        declared_at=declared_at,
        next_run_at=next_run_at,
        last_due_at=last_due_at,
        last_job_id=last_job_id,
        num_runs=num_runs,
        paused_at=paused_at,
    )
