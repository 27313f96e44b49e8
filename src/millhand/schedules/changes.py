"""Changes of kept schedules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from millhand.core.errors import ConfigError, InvalidJob, MillhandError, NotFound
from millhand.core.insert_opts import PRIORITY_MAX
from millhand.core.schedule import ScheduleRow, definition_of
from millhand.core.schedule_fields import changed_schedule, when_text
from millhand.db.driver.protocol import Executor
from millhand.schedules import control as schedule_control
from millhand.schedules.store import schedule_get_shape, schedule_lock, schedule_remove
from millhand.shells.web.change import Changed, ChangeRequest, record
from millhand.shells.web.form import decimal_seconds, whole_number

TEXTS = ("kind", "args", "cron", "timezone", "catch_up", "overlap", "queue")
NUMBERS = {"priority": PRIORITY_MAX, "max_attempts": 32_767}
NEEDS_MIGRATION = "schedules must have their table, which is not there or not yours; run millhand migrate up"


async def set_schedule(request: ChangeRequest) -> Changed:
    """
    Create the schedule with the id `schedule`, or change it; an empty or missing field stays, but an empty `jitter` is none.

    The fields are `kind`, `args`, `cron` or `interval`, `timezone`, `catch_up`, `overlap`, `jitter`, `queue`, `priority` and
    `max_attempts`. `interval` and `jitter` are in seconds. Raises: NotFound, ValueError, ConfigError.
    """
    id, given = request.field("schedule"), _given(request)
    await _check_table(request)
    async with request.database.driver.pool.begin() as tx:
        found = await _found(tx, request, id)
        if found is None and "kind" not in given:
            raise ValueError(f"kind must be given for a new schedule, got {id!r} without")
        try:
            schedule = changed_schedule(id, None if found is None else found.schedule, given)
        except (ConfigError, InvalidJob) as error:
            raise ValueError(f"{error}") from error
        job = definition_of(schedule)
        if not request.user.sees(queue=job.queue, kind=job.kind):
            raise InvalidJob(f"kind and queue must be yours, got {job.kind!r} and {job.queue!r}")
        await schedule_control.set_schedule(tx, schedule)
        path = f"/periodic?{urlencode({'schedule': id})}"
        done = Changed(action="set", subject=f"schedule {id}", path=path)
        await record(tx, request, done, {"kind": job.kind, "queue": job.queue, "when": when_text(schedule)})
    return done


async def pause_schedule(request: ChangeRequest) -> Changed:
    """Pause a schedule. Raises: NotFound, ConfigError."""
    return await _change(request, "pause", schedule_control.pause_schedule)


async def resume_schedule(request: ChangeRequest) -> Changed:
    """Resume a schedule with its next instant after now. Raises: NotFound, ConfigError."""
    return await _change(request, "resume", schedule_control.resume_schedule)


async def remove_schedule(request: ChangeRequest) -> Changed:
    """Delete a schedule; its jobs stay. Raises: NotFound, ConfigError."""
    return await _change(request, "remove", _remove, path="/periodic")


async def run_schedule(request: ChangeRequest) -> Changed:
    """Insert a job of a schedule now. Raises: NotFound, ConfigError; MillhandError beside a run that forbids it."""
    await _check_table(request)
    id = str(request.path["name"])
    async with request.database.driver.pool.begin() as tx:
        await _found(tx, request, id)
        result = await schedule_control.run_schedule_now(tx, id)
        job = result.job
        if result.unique_skipped_as_duplicate:
            raise MillhandError(
                f"no job must have the unique key of schedule {id!r}, got job {job.id}; wait for its end"
            )
        done = Changed(
            action="run", subject=f"job {job.id}", num_jobs=1, ids=(job.id,), path=f"/jobs/{job.id}"
        )
        await record(tx, request, done, {"schedule": id, "kind": job.kind, "queue": job.queue})
    return done


async def _remove(tx: Executor, id: str) -> None:
    await tx.run(schedule_remove(id))


async def _change(
    request: ChangeRequest,
    action: str,
    change: Callable[[Executor, str], Awaitable[object]],
    path: str | None = None,
) -> Changed:
    await _check_table(request)
    id = str(request.path["name"])
    async with request.database.driver.pool.begin() as tx:
        await _found(tx, request, id)
        await change(tx, id)
        done = Changed(action=action, subject=f"schedule {id}", path=path)
        await record(tx, request, done, {})
    return done


async def _found(tx: Executor, request: ChangeRequest, id: str) -> ScheduleRow | None:
    """Lock and return a schedule, if it exists. Raises: NotFound beyond the user's limits."""
    for locked in await tx.run(schedule_lock([id])):
        job = definition_of(locked.row.schedule)
        if not request.user.sees(queue=job.queue, kind=job.kind):
            raise NotFound("schedule", id)
        return locked.row
    return None


async def _check_table(request: ChangeRequest) -> None:
    if not await request.database.has(schedule_get_shape):
        raise ConfigError(NEEDS_MIGRATION)


def _given(request: ChangeRequest) -> dict[str, Any]:
    """Return the values of the fields that have one. Raises: ValueError."""
    given: dict[str, Any] = {name: text for name in TEXTS if (text := request.field(name))}
    for name, maximum in NUMBERS.items():
        if text := request.field(name):
            given[name] = whole_number(name, text, maximum=maximum)
    for name in ("interval", "jitter"):
        if text := request.field(name):
            given[name] = timedelta(seconds=decimal_seconds(name, text))
    if "cron" in given and "interval" in given:
        raise ValueError("cron or interval must be empty, got both")
    if "jitter" in request.form:
        given.setdefault("jitter", timedelta(0))
    return given
