"""
Control of schedules: `client.schedules`.

The methods work on the database alone. No client needs to run; the leader is informed by NOTIFY.
`tx` is a connection of yours: the method is then part of its transaction, and until that ends no other call can change the
same schedule, and the leader does not run it.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from millhand.core.checks import check_number
from millhand.core.errors import ConfigError, MillhandError, NotFound
from millhand.core.insert_opts import MAX_ATTEMPTS_DEFAULT, InsertResult
from millhand.core.job import JobState
from millhand.core.schedule import JobSchedule, ScheduleRow, definition_of, encode_schedule, without_overlap
from millhand.db.driver.protocol import Executor
from millhand.db.tx_control import TxControl
from millhand.engine.store.job import job_get_by_id
from millhand.engine.store.job_insert import job_insert_many
from millhand.schedules.store import (
    LIST_MAX,
    LockedSchedule,
    schedule_insert_missing,
    schedule_list,
    schedule_lock,
    schedule_remove,
    schedule_set_declared_at,
    schedule_set_last_job,
    schedule_update,
)

if TYPE_CHECKING:
    from millhand.core.tx_types import AnyTx

PREVIEW_MAX = 1_000


class ScheduleControl(TxControl):
    """
    Reads and changes the schedules that the database keeps; `client.schedules`.

    A schedule that is set here holds until the same schedule in the code of a client changes.
    """

    async def set(self, schedule: JobSchedule, *, tx: AnyTx | None = None) -> ScheduleRow:
        """
        Create a schedule, or replace the one with its id, and return it.

        A pause stays, and so does an instant that is due already.

        Raises: ConfigError for anything but a JobSchedule.
        """
        if not isinstance(schedule, JobSchedule):
            raise ConfigError(f"schedule must be a JobSchedule, got {schedule!r}; write JobSchedule(id=…)")
        async with self._begin(tx) as executor:
            return await set_schedule(executor, schedule)

    async def get(self, id: str, *, tx: AnyTx | None = None) -> ScheduleRow:
        """Return a schedule. Raises: NotFound."""
        for row in await self._executor(tx).run(schedule_list(ids=[id])):
            return row
        raise NotFound("schedule", id)

    async def list(
        self, *, after: str = "", limit: int = LIST_MAX, tx: AnyTx | None = None
    ) -> Sequence[ScheduleRow]:
        """Return up to `limit` schedules by id, those after an id. Raises: ConfigError for a limit above 1,000."""
        check_number("limit", limit, LIST_MAX)
        return await self._executor(tx).run(schedule_list(after=after, limit=limit))

    async def next_instants(
        self, id: str, num: int = 5, *, tx: AnyTx | None = None
    ) -> builtins.list[datetime]:
        """Return the next `num` due instants, fewer if the schedule ends. Raises: NotFound; ConfigError above 1,000."""
        check_number("num", num, PREVIEW_MAX)
        row = await self.get(id, tx=tx)
        found: builtins.list[datetime] = []
        at = row.next_run_at
        while at is not None and len(found) < num:
            found.append(at)
            at = row.schedule.next_after(at)
        return found

    async def pause(self, id: str, *, tx: AnyTx | None = None) -> ScheduleRow:
        """Insert no job of a schedule until `resume`. Jobs that were inserted are worked. Raises: NotFound."""
        async with self._begin(tx) as executor:
            return await pause_schedule(executor, id)

    async def resume(self, id: str, *, tx: AnyTx | None = None) -> ScheduleRow:
        """Continue a paused schedule with its next instant after now: a pause misses nothing. Raises: NotFound."""
        async with self._begin(tx) as executor:
            return await resume_schedule(executor, id)

    async def remove(self, id: str, *, tx: AnyTx | None = None) -> None:
        """
        Delete a schedule. Its jobs stay. A client that declares it in code declares it again within an hour.

        Raises: NotFound.
        """
        await self._executor(tx).run(schedule_remove(id))

    async def run_now(self, id: str, *, tx: AnyTx | None = None) -> InsertResult:
        """
        Insert a job of a schedule now, also of a paused one; its instants stay.

        Raises: NotFound; MillhandError if `overlap` does not allow it beside the job of the last run.
        """
        async with self._begin(tx) as executor:
            return await run_schedule_now(executor, id)


async def set_schedule(tx: Executor, schedule: JobSchedule) -> ScheduleRow:
    """Create a schedule, or replace the one with its id, in a transaction, and return it."""
    locked = await _lock_or_insert(tx, [schedule])
    row = _changed(locked[schedule.id], schedule)
    await tx.run(schedule_update([row], definitions=[schedule]))
    [stored] = await tx.run(schedule_list(ids=[schedule.id]))
    return stored


async def pause_schedule(tx: Executor, id: str) -> ScheduleRow:
    """Pause a schedule in a transaction, and return it. Raises: NotFound."""
    locked = await lock_schedule(tx, id)
    row = msgspec.structs.replace(locked.row, paused_at=locked.row.paused_at or locked.now)
    await tx.run(schedule_update([row]))
    return row


async def resume_schedule(tx: Executor, id: str) -> ScheduleRow:
    """Resume a schedule in a transaction, and return it. Raises: NotFound."""
    locked = await lock_schedule(tx, id)
    row = locked.row
    if row.paused_at is not None:
        next_run_at = _next_after_now(locked, row.schedule)
        row = msgspec.structs.replace(row, paused_at=None, next_run_at=next_run_at)
        await tx.run(schedule_update([row]))
    return row


async def run_schedule_now(tx: Executor, id: str) -> InsertResult:
    """Insert a job of a schedule in a transaction. Raises: as `ScheduleControl.run_now`."""
    locked = await lock_schedule(tx, id)
    definition = definition_of(locked.row.schedule)
    state = await _last_state(tx, locked.row)
    if not without_overlap(definition, [locked.now], state):
        raise MillhandError(
            f"the last run of schedule {id!r} must have ended, got job {locked.row.last_job_id} {state}; "
            "wait for its end, or set overlap to allow"
        )
    params = definition.params(id, locked.now, locked.now, MAX_ATTEMPTS_DEFAULT, is_run_now=True)
    queues = [params.queue] if params.state is JobState.AVAILABLE else []
    [result] = await tx.run(job_insert_many([params], notify_queues=queues))
    await tx.run(schedule_set_last_job(id, result.job.id))
    return result


async def lock_schedule(tx: Executor, id: str) -> LockedSchedule:
    """Lock a schedule until the end of the transaction, and return it. Raises: NotFound."""
    for locked in await tx.run(schedule_lock([id])):
        return locked
    raise NotFound("schedule", id)


async def declare_schedules(
    pool: Executor, schedules: Sequence[JobSchedule], *, now: datetime | None = None
) -> builtins.list[str]:
    """
    Write what code declares, and return the ids of schedules that changed.

    A schedule is replaced only if code declared another one before. What was set at run time stays otherwise.
    Concurrency: safe to race; several clients declare at once.
    """
    if not schedules:
        return []
    ids = [one.id for one in schedules]
    async with pool.begin() as tx:
        locked = await _lock_or_insert(tx, schedules, now=now)
        changed = [one for one in schedules if _is_news(locked[one.id].row, one)]
        if changed:
            rows = [_changed(locked[one.id], one) for one in changed]
            await tx.run(schedule_update(rows, definitions=changed, declared=changed))
        await tx.run(schedule_set_declared_at(ids))
    return [one.id for one in changed]


async def _lock_or_insert(
    tx: Executor, schedules: Sequence[JobSchedule], *, now: datetime | None = None
) -> dict[str, LockedSchedule]:
    """Lock schedules by id, and insert those that are not there: one may be removed after the insert has found it."""
    locked: dict[str, LockedSchedule] = {}
    while missing := [one for one in schedules if one.id not in locked]:
        await tx.run(schedule_insert_missing(missing))
        found = await tx.run(schedule_lock([one.id for one in missing], now=now))
        locked.update({one.row.schedule.id: one for one in found})
    return locked


def _is_news(row: ScheduleRow, schedule: JobSchedule) -> bool:
    return row.declared is None or encode_schedule(row.declared) != encode_schedule(schedule)


def _changed(locked: LockedSchedule, schedule: JobSchedule) -> ScheduleRow:
    row = locked.row
    is_due = row.next_run_at is not None and row.next_run_at <= locked.now and row.paused_at is None
    keeps = row.next_run_at is not None and (is_due or row.schedule.has_same_times(schedule))
    next_run_at = row.next_run_at if keeps else _next_after_now(locked, schedule)
    return msgspec.structs.replace(row, schedule=schedule, next_run_at=next_run_at)


def _next_after_now(locked: LockedSchedule, schedule: JobSchedule) -> datetime | None:
    """Return the next instant after now, and after the last one: a clock that was set back repeats none."""
    return schedule.next_after(max(locked.now, locked.row.last_due_at or locked.now))


async def _last_state(executor: Executor, row: ScheduleRow) -> JobState | None:
    if row.last_job_id is None:
        return None
    try:
        return (await executor.run(job_get_by_id(row.last_job_id))).state
    except NotFound:
        return None
