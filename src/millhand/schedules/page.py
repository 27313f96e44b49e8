"""Kept schedules: what each inserts, when it is due, and the job of its last run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from millhand.core.errors import ConfigError, InvalidJob, NotFound
from millhand.core.job import JobId, JobState
from millhand.core.schedule import ScheduleRow, definition_of
from millhand.core.schedule_fields import is_as_declared
from millhand.engine.store.job import job_list_states
from millhand.schedules.store import schedule_get_shape, schedule_list
from millhand.shells.web.page import PageRequest

PAGE_SIZE = 100
NUM_INSTANTS = 5
# Longer ones are not in the form; a change without args keeps them.
ARGS_LENGTH_MAX = 10_000
UNREADABLE = (ConfigError, InvalidJob, msgspec.MsgspecError)


class ScheduleLine(msgspec.Struct, frozen=True, kw_only=True):
    """
    A schedule that the database keeps.

    Attributes:
        id: The id that its program or a person gave it.
        last_job_id: The job of its last run.
        last_state: The state of that job; None if the job was deleted.
        is_as_declared: Whether it is as the code of a client declared it last; else it was set at run time.
        declared_at: When a client declared it last; None if it was only set at run time.
        args: The args of its jobs as JSON; None in a list, if they are too long, or if a rule hides a part of them.
        next_instants: The next five due instants; empty in a list.
    """

    id: str
    kind: str
    queue: str
    priority: int
    max_attempts: int
    cron: str | None
    interval: timedelta | None
    timezone: str
    catch_up: str
    overlap: str
    jitter: timedelta
    next_run_at: datetime | None
    last_due_at: datetime | None
    last_job_id: JobId | None
    last_state: JobState | None
    num_runs: int
    paused_at: datetime | None
    is_as_declared: bool
    declared_at: datetime | None
    args: str | None = None
    next_instants: tuple[datetime, ...] = ()


class Schedules(msgspec.Struct, frozen=True, kw_only=True):
    """
    Up to 100 schedules by id, or the one that the query names: `shown`.

    `after` is the cursor of the next page, None after the last one. `fault` says why the schedules cannot be read, such as
    an unknown time zone.
    """

    lines: tuple[ScheduleLine, ...] = ()
    after: str | None = None
    shown: ScheduleLine | None = None
    fault: str | None = None


async def load_schedules(request: PageRequest) -> Schedules | None:
    """Load a page of schedules; None without their table. Raises: NotFound for an unknown `schedule` of the query."""
    if not await request.database.has(schedule_get_shape):
        return None
    try:
        return await _load(request)
    except UNREADABLE as error:
        return Schedules(fault=f"{error}")


async def _load(request: PageRequest) -> Schedules:
    id, run = request.query.get("schedule"), request.database.run
    if id is None:
        rows = await run(schedule_list(after=request.query.get("after", ""), limit=PAGE_SIZE))
    else:
        rows = await run(schedule_list(ids=[id]))
    states = await run(job_list_states([row.last_job_id for row in rows if row.last_job_id is not None]))
    lines = [line for row in rows if (line := _line(row, states, request)) is not None]
    if id is None:
        after = rows[-1].schedule.id if len(rows) == PAGE_SIZE else None
        return Schedules(lines=tuple(lines), after=after)
    if not lines:
        raise NotFound("schedule", id)
    return Schedules(shown=_shown(rows[0], lines[0], request))


def _line(row: ScheduleRow, states: Mapping[JobId, JobState], request: PageRequest) -> ScheduleLine | None:
    """Return a schedule for the list; None if it is beyond the user's limits."""
    schedule, job = row.schedule, definition_of(row.schedule)
    if not request.user.sees(queue=job.queue, kind=job.kind):
        return None
    return ScheduleLine(
        id=schedule.id,
        kind=job.kind,
        queue=job.queue,
        priority=job.priority,
        max_attempts=job.max_attempts,
        cron=schedule.cron,
        interval=schedule.interval,
        timezone=schedule.timezone,
        catch_up=schedule.catch_up,
        overlap=schedule.overlap,
        jitter=schedule.jitter,
        next_run_at=row.next_run_at,
        last_due_at=row.last_due_at,
        last_job_id=row.last_job_id,
        last_state=None if row.last_job_id is None else states.get(row.last_job_id),
        num_runs=row.num_runs,
        paused_at=row.paused_at,
        is_as_declared=is_as_declared(row),
        declared_at=row.declared_at,
    )


def _shown(row: ScheduleRow, line: ScheduleLine, request: PageRequest) -> ScheduleLine:
    args = bytes(definition_of(row.schedule).args).decode()
    is_whole = len(args) <= ARGS_LENGTH_MAX and request.hide.json("args", args) == args
    instants: list[datetime] = []
    at = row.next_run_at
    while at is not None and len(instants) < NUM_INSTANTS:
        instants.append(at)
        at = row.schedule.next_after(at)
    return msgspec.structs.replace(line, args=args if is_whole else None, next_instants=tuple(instants))
