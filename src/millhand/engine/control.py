"""
Control of jobs, queues and clients: `client.jobs`, `client.queues`, `client.clients` and `client.attempts`.

The methods work on the database alone. No client needs to run; running clients in any language are informed by NOTIFY.
`tx` is a connection of yours: the method is then part of its transaction. Millhand makes no savepoint there, so after
an error of the database the transaction must be rolled back.

Source: River v0.51.2, client.go, the methods of the same names.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from millhand.core.client_row import ClientRow
from millhand.core.clock import Clock, SystemClock
from millhand.core.errors import UNIQUE_CONSTRAINT, DriverError, InvalidWhere, UniqueConflict
from millhand.core.job import JobId, JobRow, JobState, Json, checked_output
from millhand.core.queue import QueueRow
from millhand.db.driver.protocol import Driver, Executor
from millhand.db.query import Query, checked_id
from millhand.engine.awaited_jobs import AwaitedJobs, seconds_of
from millhand.engine.job_change import JobChanges
from millhand.engine.store.job import (
    job_cancel,
    job_complete,
    job_count_by_state,
    job_delete,
    job_get_by_id,
    job_merge_metadata,
    job_update_output,
)
from millhand.engine.store.job_list import (
    LIMIT_DEFAULT,
    JobFilters,
    JobListParams,
    SortField,
    decode_cursor,
    job_delete_many,
    job_list,
)
from millhand.engine.store.queue import queue_get, queue_list, queue_pause, queue_resume, queue_update

if TYPE_CHECKING:
    from millhand.core.tx_types import AnyTx

ALL_JOBS = JobFilters()
# SQLSTATE classes of a condition that PostgreSQL cannot parse, type-check (42) or compute (22).
_INVALID_SQL_CLASSES = ("22", "42")


class JobPage(msgspec.Struct, frozen=True):
    """
    One page of a list of jobs.

    Attributes:
        cursor: Pass it as `after` to get the next page; None after the last page.
    """

    jobs: tuple[JobRow, ...]
    cursor: str | None


class _Control:
    def __init__(self, driver: Driver, clock: Clock) -> None:
        self._clock = clock
        self._driver = driver

    def _executor(self, tx: AnyTx | None) -> Executor:
        return self._driver.pool if tx is None else self._driver.executor(tx)

    def _now(self) -> datetime | None:
        """
        Return the instant to write into a row; None for the database's.

        What copies ended jobs follows the order of these instants, so the clock of a machine that is wrong must not count.
        """
        return None if isinstance(self._clock, SystemClock) else self._clock.now()


class JobControl(_Control):
    """Reads and changes jobs of any client; `client.jobs`."""

    def __init__(
        self, driver: Driver, clock: Clock, awaited: AwaitedJobs | None = None, *, changes: JobChanges
    ) -> None:
        super().__init__(driver, clock)
        self._changes = changes
        self._awaited = AwaitedJobs(driver.pool) if awaited is None else awaited

    async def get(self, id: int, *, tx: AnyTx | None = None) -> JobRow:
        """Return one job. Raises: NotFound."""
        return await self._executor(tx).run(job_get_by_id(_job_id(id)))

    async def wait(self, id: int, *, timeout: timedelta) -> JobRow:  # noqa: ASYNC109 - its error says how to look again
        """
        Wait until a job of any client has ended, and return its row: completed, discarded or cancelled.

        The client looks after pauses that grow from 0.05 to 1 s. `result_of` decodes the output of the row.

        Raises:
            NotFound: If the job does not exist, its insert is not committed, or it is deleted meanwhile.
            WaitTimeout: If it has not ended after `timeout`. The job continues. The cause is the error of the last poll,
                if that failed.
            TooManyWaits: If the client awaits 10,000 jobs.
            NotStarted: If the client is not started, or stops.
            ConfigError: If `timeout` is not positive, or in another event loop than that of the client.
            TypeError: If `id` is no number.
        """
        return (await self.wait_many([id], timeout=timeout))[0]

    async def wait_many(self, ids: Iterable[int], *, timeout: timedelta) -> Sequence[JobRow]:  # noqa: ASYNC109 - as above
        """Wait until all of the jobs have ended, and return their rows in the order of `ids`. Raises: as `wait`."""
        return await self._awaited.wait_many(ids, seconds_of(timeout))

    async def list(
        self,
        filters: JobFilters = ALL_JOBS,
        *,
        after: str | JobRow | None = None,
        descending: bool = False,
        limit: int = LIMIT_DEFAULT,
        order_by: SortField | str = SortField.ID,
        tx: AnyTx | None = None,
    ) -> JobPage:
        """
        Return a page of the jobs that match `filters`.

        Args:
            after: The cursor of another page, or a job, that the page follows. Cursors of River's clients work too.
            limit: How many jobs to return at most, 1 to 10,000.

        Raises:
            ValueError: If a parameter is invalid.
            InvalidWhere: If PostgreSQL rejects the condition in `filters.where`.
        """
        params = JobListParams(
            descending=descending, filters=filters, limit=limit, order_by=SortField(order_by)
        )
        if after is not None:
            cursor_after = params.cursor_of(after) if isinstance(after, JobRow) else decode_cursor(after)
            params = msgspec.structs.replace(params, after=cursor_after)
        jobs = await self._run_filtered(job_list(params), filters, tx)
        cursor = params.cursor_of(jobs[-1]).encode() if len(jobs) == limit else None
        return JobPage(tuple(jobs), cursor)

    async def count_by_state(
        self, states: Iterable[JobState] = JobState, *, tx: AnyTx | None = None
    ) -> Mapping[JobState, int]:
        """
        Return how many jobs are in each of `states`, all by default; 0 for a state without jobs.

        It reads each job that it counts, about five million a second, so name only the states that you need.
        """
        return await self._executor(tx).run(job_count_by_state(states))

    async def cancel(self, id: int, *, tx: AnyTx | None = None) -> JobRow:
        """
        Cancel a job and return its new row.

        A running job is only marked. Its client cancels the attempt, and the job ends cancelled whatever the worker
        raises; if the worker ignores the cancellation and succeeds, the job ends completed. A finalized job stays as
        it is.

        Raises: NotFound.
        Source: River v0.51.2, client.go `JobCancel`.
        """
        return await self._executor(tx).run(job_cancel(_job_id(id), now=self._now()))

    async def retry(self, id: int, *, tx: AnyTx | None = None) -> JobRow:
        """
        Make a job available at once, finalized or not, and return its new row.

        If the job has no attempts left, it gets one more. A job that is running, or available and due, stays as it is, and
        one that waits for a slot of a limit keeps its place.
        No notification is sent: the next poll fetches the job.

        Raises: NotFound; UniqueConflict if another job has taken its unique key.
        Source: River v0.51.2, client.go `JobRetry`.
        """
        try:
            return await self._changes.retry(self._executor(tx), _job_id(id))
        except DriverError as error:
            if error.constraint == UNIQUE_CONSTRAINT:
                raise UniqueConflict(id) from error
            raise

    async def snooze(self, id: int, until: datetime, *, tx: AnyTx | None = None) -> JobRow:
        """
        Let a waiting job wait until an aware instant, and return its new row. An available job becomes scheduled.

        A job that waits for a slot of a limit loses its place, and waits again after that instant.

        To run it at once, use `retry`. A worker snoozes its own job with `JobSnooze`.

        Raises: NotFound; JobNotWaiting; ValueError if the instant is not in the future; UniqueConflict if another job has
        taken its unique key.
        """
        if until.tzinfo is None or until <= self._clock.now():
            raise ValueError(f"until must be an aware instant in the future, got {until!r}")
        try:
            return await self._changes.snooze(self._executor(tx), _job_id(id), until)
        except DriverError as error:
            if error.constraint == UNIQUE_CONSTRAINT:
                raise UniqueConflict(id) from error
            raise

    async def delete(self, id: int, *, tx: AnyTx | None = None) -> JobRow:
        """Delete a job that is not running and return its last row. Raises: NotFound, JobRunning."""
        return await self._executor(tx).run(job_delete(_job_id(id)))

    async def delete_many(
        self,
        filters: JobFilters,
        *,
        limit: int = LIMIT_DEFAULT,
        tx: AnyTx | None = None,
        unsafe_all: bool = False,
    ) -> Sequence[JobRow]:
        """
        Delete the jobs that match `filters`, lowest ids first, and return their last rows.

        Running jobs, and jobs that another transaction has locked, stay.

        Args:
            limit: How many jobs to delete at most, 1 to 10,000.
            unsafe_all: Allow filters that match every job.

        Raises:
            ValueError: If a parameter is invalid, or empty filters come without `unsafe_all`.
            InvalidWhere: If PostgreSQL rejects the condition in `filters.where`.

        Source: River v0.51.2, client.go `JobDeleteMany`.
        """
        return await self._run_filtered(job_delete_many(filters, limit, unsafe_all=unsafe_all), filters, tx)

    async def update_output(self, id: int, output: Json, *, tx: AnyTx | None = None) -> JobRow:
        """
        Store a job's output, any JSON value, whatever state the job is in, and return its new row.

        Raises: NotFound; ValueError if `output` does not encode to JSON or is larger than 32 MiB.
        Source: River v0.51.2, client.go `JobUpdate`.
        """
        return await self._executor(tx).run(job_update_output(_job_id(id), checked_output(output)))

    async def _run_filtered(
        self, query: Query[builtins.list[JobRow]], filters: JobFilters, tx: AnyTx | None
    ) -> Sequence[JobRow]:
        try:
            return await self._executor(tx).run(query)
        except DriverError as error:
            if filters.where is None or (error.sqlstate or "")[:2] not in _INVALID_SQL_CLASSES:
                raise
            raise InvalidWhere(filters.where.sql, error.reason, error.sqlstate) from error


def _job_id(id: int) -> JobId:
    return JobId(checked_id("job", id))


class QueueControl(_Control):
    """
    Reads and changes queues of any client; `client.queues`.

    A queue exists from its first client's start until a day after its last client's stop; other names are not found.
    """

    async def get(self, name: str, *, tx: AnyTx | None = None) -> QueueRow:
        """Return one queue. Raises: NotFound."""
        return await self._executor(tx).run(queue_get(name))

    async def list(
        self, *, after_name: str = "", limit: int = LIMIT_DEFAULT, tx: AnyTx | None = None
    ) -> Sequence[QueueRow]:
        """Return up to `limit` queues that follow `after_name`, by name."""
        return await self._executor(tx).run(queue_list(limit=limit, after_name=after_name))

    async def pause(self, name: str, *, tx: AnyTx | None = None) -> None:
        """
        Pause a queue, or every queue with `*`. Running jobs continue.

        Raises: NotFound, except for `*`.
        Source: River v0.51.2, client.go `QueuePause`.
        """
        await self._executor(tx).run(queue_pause(name))

    async def resume(self, name: str, *, tx: AnyTx | None = None) -> None:
        """Resume a paused queue, or every queue with `*`. Raises: NotFound, except for `*`."""
        await self._executor(tx).run(queue_resume(name))

    async def update(
        self, name: str, *, metadata: Mapping[str, Json] | None = None, tx: AnyTx | None = None
    ) -> QueueRow:
        """
        Replace a queue's metadata, notify all clients, and return the queue. None or an empty mapping changes nothing.

        Raises: NotFound; DriverError for metadata of 8,000 bytes or more, which is PostgreSQL's limit for NOTIFY.
        Source: River v0.51.2, client.go `QueueUpdate`.
        """
        return await self._executor(tx).run(queue_update(name, metadata=metadata or None))


class ClientControl(_Control):
    """Reads which clients work on this database, in any language; `client.clients`."""

    async def list(self) -> Sequence[ClientRow]:
        """
        Return the clients of the last day by start time, then those that are known only by their work.

        Only Millhand's clients write rows about themselves. A client in another language is known, with state
        `unregistered`, if it leads or has worked jobs within the last minutes. Before migrations 2 and 5 of line millhand,
        every client is known only so.
        """
        from millhand.engine.fleet import load_fleet  # noqa: PLC0415 - few clients list the others

        return (await load_fleet(self._driver.pool, self._clock.now())).clients


class AttemptControl(_Control):
    """
    Writes a job's row inside a transaction of its worker; `Job.complete` and `Job.checkpoint` use it.

    Only the attempt that is running writes. If its job was rescued meanwhile, the method raises, so that the worker's
    transaction is rolled back and nothing is done twice.
    """

    async def complete(self, job: JobRow, metadata: Mapping[str, Json], *, tx: AnyTx) -> JobRow:
        """Complete a running job, merging `metadata` into its own. Raises: JobNotRunning, NotFound."""
        return await self._executor(tx).run(job_complete(job, metadata, now=self._now()))

    async def checkpoint(self, job: JobRow, metadata: Mapping[str, Json], *, tx: AnyTx) -> JobRow:
        """Merge `metadata` into that of a running job. Raises: JobNotRunning, NotFound."""
        return await self._executor(tx).run(job_merge_metadata(job, metadata))
