"""Change jobs one by one, print what was changed, and explain which jobs a command left as they were."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import click

from millhand.cli.output import NotDone, counted, is_terminal, job_fields, print_json, print_message
from millhand.driver.protocol import Executor
from millhand.errors import UNIQUE_CONSTRAINT, DriverError, JobRunning, NotFound, UniqueConflict
from millhand.job import JobId, JobRow, JobState, Json
from millhand.limited_change import left_because, retry_job
from millhand.store.job import job_cancel, job_delete, job_lock

NUM_EXPLAINED = 10


class Changes:
    """What a command has changed, and why it left other jobs. It keeps ids, and rows only for JSON: all may be large."""

    def __init__(self, *, is_json: bool) -> None:
        self._done: list[Json] = []
        self._is_json = is_json
        self.refusals: list[str] = []

    def add(self, row: JobRow) -> None:
        self._done.append(job_fields(row) if self._is_json else row.id)

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
        if self._is_json:
            print_json(self._done)
        elif not is_terminal():
            for id in self._done:
                click.echo(id)
        if self._done or not self.refusals:
            print_message(f"{past} {counted(len(self._done), noun)}")


async def change_jobs(
    pool: Executor, changes: Changes, verb: str, ids: Sequence[JobId], states: Collection[JobState]
) -> None:
    """
    Cancel, retry or delete jobs, and add each to `changes`. Jobs in other states than `states` are left.

    The ids may be older than the answer to a question, so a job's state counts when it is locked.
    """
    for id in ids:
        try:
            async with pool.begin() as tx:
                before = await tx.run(job_lock(id))
                after = await _change(tx, verb, id) if before.state in states else before
        except (JobRunning, NotFound, UniqueConflict) as error:
            changes.refusals.append(str(error))
            continue
        if before.state not in states:
            changes.refusals.append(
                f"job must still be in a state that the filter selects, got job {id} {before.state}"
            )
        elif (reason := left_because(verb, before, after)) is not None:
            changes.refusals.append(reason)
        else:
            changes.add(after)


async def _change(tx: Executor, verb: str, id: JobId) -> JobRow:
    try:
        if verb == "cancel":
            return await tx.run(job_cancel(id))
        if verb == "delete":
            return await tx.run(job_delete(id))
        return await retry_job(tx, id)
    except DriverError as error:
        if error.constraint == UNIQUE_CONSTRAINT:
            raise UniqueConflict(id) from error
        raise


def joined(refusals: Sequence[str]) -> str:
    """Return refusals as one text: the first ones, and the number of the others."""
    rest = len(refusals) - NUM_EXPLAINED
    return "; ".join([*refusals[:NUM_EXPLAINED], *([f"and {rest:,} more"] if rest > 0 else [])])
