"""Statements for schedules that the database keeps."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from kept_schedules import NOON, put, schedule
from millhand.core.errors import NotFound
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobId
from millhand.db.driver.protocol import Executor
from millhand.schedules.store import (
    Move,
    schedule_insert_missing,
    schedule_list,
    schedule_list_undeclared,
    schedule_lock,
    schedule_lock_due,
    schedule_move,
    schedule_remove,
    schedule_set_last_job,
    schedule_update,
)

MINUTE = timedelta(minutes=1)


async def test_a_schedule_is_read_as_it_was_written(tx: Executor) -> None:
    """Its values, what code declared, and its instants survive the table."""
    one = schedule(opts=InsertOpts(priority=1, queue="default", tags=()), jitter=MINUTE)
    await tx.run(schedule_insert_missing([one]))
    [locked] = await tx.run(schedule_lock(["digest"], now=NOON))
    row = msgspec.structs.replace(locked.row, declared=one, next_run_at=NOON + MINUTE, paused_at=NOON)

    await tx.run(schedule_update([row], definitions=[one], declared=[one]))

    [found] = await tx.run(schedule_list())
    assert (found, locked.now, found.schedule) == (row, NOON, one)


async def test_an_existing_schedule_is_not_replaced(tx: Executor) -> None:
    """The insert of a missing one leaves another's definition and instant."""
    await put(tx, schedule(jitter=MINUTE))

    await tx.run(schedule_insert_missing([schedule()]))

    [row] = await tx.run(schedule_list())
    assert (row.schedule.jitter, row.next_run_at) == (MINUTE, NOON)


async def test_due_schedules_come_in_the_order_of_their_instants(tx: Executor) -> None:
    """Later and excluded ones are left out, and there are no more than the limit."""
    for n, id in enumerate(["d1", "c1", "b1", "a1"]):
        await put(tx, schedule(id), next_run_at=NOON + n * MINUTE)

    due = await tx.run(schedule_lock_due(limit=2, excluded=["c1"], now=NOON + 2 * MINUTE))

    assert [(one.id, one.due_at) for one in due] == [("d1", NOON), ("b1", NOON + 2 * MINUTE)]


async def test_a_schedule_is_moved_from_its_instant_only(tx: Executor) -> None:
    """A second move from the same instant changes nothing; a run without job keeps the last one."""
    await put(tx, schedule())
    move = Move("digest", NOON, NOON + MINUTE, NOON, JobId(7), 1)

    moved = [await tx.run(schedule_move([move])), await tx.run(schedule_move([move]))]
    await tx.run(schedule_move([Move("digest", NOON + MINUTE, None, NOON + MINUTE, None, 0)]))

    [row] = await tx.run(schedule_list())
    assert (moved, row.last_job_id, row.num_runs, row.next_run_at) == ([1, 0], 7, 1, None)


async def test_a_schedule_is_removed_once(tx: Executor) -> None:
    """A second removal raises NotFound with its id."""
    await put(tx, schedule())
    await tx.run(schedule_set_last_job("digest", JobId(9)))
    [row] = await tx.run(schedule_list(ids=["digest"]))

    await tx.run(schedule_remove("digest"))

    assert row.last_job_id == 9
    with pytest.raises(NotFound, match="schedule must exist, found none with name 'digest'"):
        await tx.run(schedule_remove("digest"))
    assert await tx.run(schedule_list_undeclared(age=MINUTE)) == []
