"""
Change jobs, print what was changed, and explain which jobs a command left as they were.

Rule 1: a batch of jobs is one transaction. It never waits for a lock of a job, so it cannot hold up others.
Rule 2: jobs that another transaction has locked are changed one by one, after the others of their batch.
Rule 3: the changes of a batch are printed if it was committed, also when Ctrl-C comes during its commit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from millhand.capabilities import JOB_CHANGES
from millhand.core.errors import UNIQUE_CONSTRAINT, DriverError, JobRunning, NotFound, UniqueConflict
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.sqlstate import DEADLOCK_DETECTED
from millhand.db.driver.protocol import Executor
from millhand.engine.finished import finished
from millhand.engine.job_change import left_because
from millhand.engine.store.bulk_change import BulkAction
from millhand.engine.store.job import (
    LockedJob,
    job_cancel,
    job_delete,
    job_get_by_ids,
    job_lock,
    job_lock_many,
)
from millhand.shells.cli.changes import Changes
from millhand.shells.cli.progress_bar import shown_jobs

BATCH_SIZE = 1_000
NUM_EXPLAINED = 10


async def change_jobs(
    pool: Executor, changes: Changes, verb: str, ids: Sequence[JobId], states: Collection[JobState]
) -> None:
    """
    Cancel, retry or delete jobs, and add each to `changes`. Jobs in other states than `states` are left.

    The ids may be older than the answer to a question, so a job's state counts when it is locked.
    """
    with shown_jobs(verb, len(ids)) as show:
        for start in range(0, len(ids), BATCH_SIZE):
            batch = ids[start : start + BATCH_SIZE]
            for id in await finished(_change_batch(pool, changes, verb, batch, states)):
                await _change_one(pool, changes, verb, id, states)
            show(start + len(batch))


async def _change_batch(
    pool: Executor, changes: Changes, verb: str, ids: Sequence[JobId], states: Collection[JobState]
) -> Sequence[JobId]:
    """Change the jobs of a batch; return those that are to be changed one by one."""
    rows: list[JobRow] = []
    try:
        async with pool.begin() as tx:
            locked = {job.id: job for job in await tx.run(job_lock_many(ids))}
            wanted = [job for job in locked.values() if job.state in states]
            if changes.is_json and verb == "delete":
                rows = await tx.run(job_get_by_ids([job.id for job in wanted]))
            reasons = await JOB_CHANGES.change_locked(tx, BulkAction(verb), wanted)
            if changes.is_json and verb != "delete":
                rows = await tx.run(job_get_by_ids([job.id for job in wanted]))
    except DriverError as error:
        if error.constraint != UNIQUE_CONSTRAINT and error.sqlstate != DEADLOCK_DETECTED:
            raise
        return ids
    reasons |= {job.id: _not_selected(job) for job in locked.values() if job.state not in states}
    changes.add_many([(id, reasons[id]) for id in ids if id in locked], rows)
    return [id for id in ids if id not in locked]


async def _change_one(
    pool: Executor, changes: Changes, verb: str, id: JobId, states: Collection[JobState]
) -> None:
    try:
        async with pool.begin() as tx:
            before = await tx.run(job_lock(id))
            after = await _change(tx, verb, id) if before.state in states else before
    except (JobRunning, NotFound, UniqueConflict) as error:
        changes.refusals.append(str(error))
        return
    reason = left_because(verb, before, after) if before.state in states else _not_selected(before)
    if reason is None:
        changes.add(after)
    else:
        changes.refusals.append(reason)


def _not_selected(job: JobRow | LockedJob) -> str:
    return f"job must still be in a state that the filter selects, got job {job.id} {job.state}"


async def _change(tx: Executor, verb: str, id: JobId) -> JobRow:
    try:
        if verb == "cancel":
            return await tx.run(job_cancel(id))
        if verb == "delete":
            return await tx.run(job_delete(id))
        return await JOB_CHANGES.retry(tx, id)
    except DriverError as error:
        if error.constraint == UNIQUE_CONSTRAINT:
            raise UniqueConflict(id) from error
        raise
