"""
Control of dead letters: `client.dead`.

The methods work on the database alone. No client needs to run.
`tx` is a connection of yours: the method is then part of its transaction. A change without `tx` is a transaction of its
own: if it dies anywhere, nothing has happened, and the job is never there twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from millhand.core.errors import UNIQUE_CONSTRAINT, DriverError, JobNotDiscarded, UniqueConflict
from millhand.core.job import JobId, JobRow, JobState
from millhand.db.driver.protocol import Executor
from millhand.db.query import checked_id
from millhand.db.tx_control import TxControl
from millhand.dead_jobs.dead_job import DeadJob, DeadJobFilters, DeadJobPage, decode_cursor, encode_cursor
from millhand.dead_jobs.store import (
    LIMIT_DEFAULT,
    SUBJECT,
    dead_job_get,
    dead_job_list,
    dead_job_lock,
    dead_job_remove,
    dead_job_restore,
)
from millhand.engine.store.job import job_delete, job_retry

if TYPE_CHECKING:
    from millhand.core.tx_types import AnyTx

ALL_DEAD_JOBS = DeadJobFilters()


class DeadJobControl(TxControl):
    """Reads, retries and deletes dead letters, the copies of discarded jobs; `client.dead`."""

    async def get(self, id: int, *, tx: AnyTx | None = None) -> DeadJob:
        """Return the dead letter of the job with this id. Raises: NotFound."""
        return await self._executor(tx).run(dead_job_get(checked_id(SUBJECT, id)))

    async def list(
        self,
        filters: DeadJobFilters = ALL_DEAD_JOBS,
        *,
        after: str | DeadJob | None = None,
        limit: int = LIMIT_DEFAULT,
        tx: AnyTx | None = None,
    ) -> DeadJobPage:
        """
        Return a page of the dead letters that match `filters`, those discarded last first.

        Args:
            after: The cursor of another page, or a dead letter, that the page follows.
            limit: How many dead letters to return at most, 1 to 10,000.

        Raises: ValueError if a parameter is invalid.
        """
        position = None
        if after is not None:
            position = _position(after) if isinstance(after, DeadJob) else decode_cursor(after)
        found = await self._executor(tx).run(dead_job_list(filters, after=position, limit=limit))
        cursor = encode_cursor(*_position(found[-1])) if len(found) == limit else None
        return DeadJobPage(tuple(found), cursor)

    async def retry(self, id: int, *, tx: AnyTx | None = None) -> JobRow:
        """
        Make the job of a dead letter available now, delete the dead letter, and return the job.

        If the job's row is still there, it is retried as by `client.jobs.retry`. Otherwise the job is inserted again, with
        its id, errors and unique key, and with one more attempt. No notification is sent: the next poll fetches the job.

        Raises: NotFound; JobNotDiscarded if the job was retried by other means; UniqueConflict if another job has taken its
        unique key.
        """
        async with self._begin(tx) as executor:
            return await retry_dead_job(executor, id)

    async def delete(self, id: int, *, tx: AnyTx | None = None) -> DeadJob:
        """
        Delete a dead letter and return it. The job's row is deleted too, if it is still discarded.

        Raises: NotFound.
        """
        async with self._begin(tx) as executor:
            return await delete_dead_job(executor, id)


async def retry_dead_job(executor: Executor, id: int) -> JobRow:
    """Retry the job of a dead letter, as `DeadJobControl.retry` says, within a transaction."""
    dead = await executor.run(dead_job_lock(checked_id(SUBJECT, id)))
    if dead.current_state not in (None, JobState.DISCARDED):
        raise JobNotDiscarded(id, str(dead.current_state))
    try:
        if dead.current_state is None:
            job = await executor.run(dead_job_restore(id))
        else:
            job = await executor.run(job_retry(JobId(id)))
    except DriverError as error:
        if error.constraint == UNIQUE_CONSTRAINT:
            raise UniqueConflict(id) from error
        raise
    await executor.run(dead_job_remove(id))
    return job


async def delete_dead_job(executor: Executor, id: int) -> DeadJob:
    """Delete a dead letter, as `DeadJobControl.delete` says, within a transaction."""
    dead = await executor.run(dead_job_lock(checked_id(SUBJECT, id)))
    if dead.current_state is JobState.DISCARDED:
        await executor.run(job_delete(JobId(id)))
    await executor.run(dead_job_remove(id))
    return dead


def _position(dead: DeadJob) -> tuple[datetime, int]:
    at = dead.job.finalized_at
    assert at is not None  # noqa: S101 - it was discarded
    return at, dead.job.id
