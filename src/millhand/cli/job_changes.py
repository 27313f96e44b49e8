"""
Change jobs, print what was changed, and explain which jobs a command left as they were.

Rule 1: a batch of jobs is one transaction. It never waits for a lock of a job, so it cannot hold up others.
Rule 2: jobs that another transaction has locked are changed one by one, after the others of their batch.
Rule 3: the changes of a batch are printed if it was committed, also when Ctrl-C comes during its commit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import click

from millhand.capabilities import JOB_CHANGES
from millhand.cli.output import NotDone, counted, is_terminal, job_fields, print_json, print_message
from millhand.cli.progress_bar import shown_jobs
from millhand.core.errors import UNIQUE_CONSTRAINT, DriverError, JobRunning, NotFound, UniqueConflict
from millhand.core.job import JobId, JobRow, JobState, Json
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

BATCH_SIZE = 1_000
DEADLOCK_DETECTED = "40P01"
NUM_EXPLAINED = 10


class Changes:
    """What a command has changed, and why it left other jobs. It keeps ids, and rows only for JSON: all may be large."""

    def __init__(self, *, is_json: bool) -> None:
        self._done: list[Json] = []
        self.is_json = is_json
        self.refusals: list[str] = []

    def add(self, row: JobRow) -> None:
        self._done.append(job_fields(row) if self.is_json else row.id)

    def add_many(self, reasons: Sequence[tuple[JobId, str | None]], rows: Sequence[JobRow]) -> None:
        """Add jobs that have no reason why they were left; JSON needs their rows."""
        by_id = {row.id: row for row in rows}
        for id, reason in reasons:
            if reason is not None:
                self.refusals.append(reason)
            else:
                self._done.append(job_fields(by_id[id]) if self.is_json else id)

    @contextmanager
    def printed(self, past: str, noun: str) -> Iterator[None]:
        """
        Print what the block has changed, also if Ctrl-C or an error ends it: each change is committed by then.

        Raises: NotDone with the refusals, if any.
        """
        try:
            yield
        except BaseException:
            if self._done:
                self._print(past, noun)
            raise
        self._print(past, noun)
        if self.refusals:
            raise NotDone(joined(self.refusals))

    def _print(self, past: str, noun: str) -> None:
        if self.is_json:
            print_json(self._done)
        elif self._done and not is_terminal():
            click.echo("\n".join(map(str, self._done)))
        if self._done or not self.refusals:
            print_message(f"{past} {counted(len(self._done), noun)}")


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


def joined(refusals: Sequence[str]) -> str:
    """Return refusals as one text: the first ones, and the number of the others."""
    rest = len(refusals) - NUM_EXPLAINED
    return "; ".join([*refusals[:NUM_EXPLAINED], *([f"and {rest:,} more"] if rest > 0 else [])])
