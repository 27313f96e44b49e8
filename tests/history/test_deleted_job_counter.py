"""The counter of deleted jobs writes what it was given, by minute, kind and queue, and nothing twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

from factory import NOW, ROW, qualified
from millhand.core.event import EventKind
from millhand.core.job import JobState
from millhand.core.transition import StateChange
from millhand.db.driver.protocol import Executor
from millhand.engine.attempt import Attempt
from millhand.engine.pending_change import Pending
from millhand.history.deleted_job_counter import DeletedJobCounter

MINUTE = timedelta(minutes=1)
# So late that the writer does not delete it as old.
AT = NOW.replace(year=2200)
BEGAN_AT = AT.replace(second=0, microsecond=0)


def pending(minutes: int = 0, run_seconds: float = 0.003, **row: Any) -> Pending:
    job = msgspec.structs.replace(ROW, **row)
    change = StateChange(
        job.id, JobState.COMPLETED, EventKind.JOB_COMPLETED, finalized_at=AT + minutes * MINUTE
    )
    return Pending(change, Attempt(job, run_seconds=run_seconds, queue_wait_seconds=0.0), 0.0, is_plain=True)


async def written(tx: Executor) -> list[tuple[Any, ...]]:
    sql = """
        SELECT began_at, kind, queue, completed, run_ms, waits, runs FROM /* schema */millhand_deleted_job_stats
        ORDER BY 1, 2, 3
    """
    return [tuple(row.values()) for row in await tx.fetch(qualified(sql, tx))]


async def test_jobs_are_counted_by_minute_kind_and_queue(tx: Executor) -> None:
    """A batch over two minutes, two kinds and two queues has a row for each, with the durations of its own jobs."""
    counter = DeletedJobCounter(tx)
    counter.add([pending(), pending(1), pending(kind="a"), pending(queue="q"), pending(run_seconds=0.0005)])
    counter.add([])

    await counter.run_once()

    assert await written(tx) == [
        (BEGAN_AT, "a", "default", 1, 3, [1], [0, 0, 1]),
        (BEGAN_AT, "mail", "default", 2, 4, [2], [1, 0, 1]),
        (BEGAN_AT, "mail", "q", 1, 3, [1], [0, 0, 1]),
        (BEGAN_AT + MINUTE, "mail", "default", 1, 3, [1], [0, 0, 1]),
    ]


async def test_numbers_of_a_minute_are_written_over(tx: Executor) -> None:
    """Each pass writes all that was counted of a minute; another counter has its own row; one without news writes none."""
    counter, other = DeletedJobCounter(tx), DeletedJobCounter(tx)
    for one in (counter, other, counter):
        one.add([pending()])
        await one.run_once()
    await tx.fetch(qualified("DELETE FROM /* schema */millhand_deleted_job_stats WHERE completed = 1", tx))
    await other.run_once()

    assert await written(tx) == [(BEGAN_AT, "mail", "default", 2, 6, [2], [0, 0, 2])]


async def test_minutes_of_long_ago_are_forgotten(tx: Executor) -> None:
    """A counter holds the minutes to which jobs may yet be added; a late job of a forgotten one begins it anew."""
    counter = DeletedJobCounter(tx)
    for minutes in range(30):
        counter.add([pending(minutes)])
        await counter.run_once()

    assert len(counter._durations) <= 11
    assert len(await written(tx)) == 30


async def test_nothing_is_counted_without_the_table(tx: Executor) -> None:
    """Before migration 9, a pass succeeds and forgets the numbers."""
    await tx.fetch(qualified("DROP TABLE /* schema */millhand_deleted_job_stats", tx))
    counter = DeletedJobCounter(tx)
    counter.add([pending()])

    assert await counter.try_pass()
