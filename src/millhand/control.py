"""
The commands that people give to jobs and queues.

They work on the database alone: no client need run, and those that do hear of it by NOTIFY, in whatever language.
Every command takes `tx`, a connection of yours, and is then part of its transaction; there is no savepoint, so an error
of the database leaves that transaction to be rolled back.

Source: River v0.51.2, client.go, the methods of the same names.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import msgspec

from millhand.client_row import ClientRow, ClientState
from millhand.clock import Clock
from millhand.driver.protocol import Driver, Executor
from millhand.errors import UNIQUE_CONSTRAINT, DriverError, InvalidWhere, UniqueConflict
from millhand.job import ClientId, JobId, JobRow, JobState, Json, checked_output
from millhand.queue import QueueRow
from millhand.store.client import client_get_foreign, client_get_shape, client_list
from millhand.store.job import (
    job_cancel,
    job_count_by_state,
    job_delete,
    job_get_by_id,
    job_retry,
    job_update_output,
)
from millhand.store.job_list import (
    LIMIT_DEFAULT,
    JobFilters,
    JobListParams,
    SortField,
    decode_cursor,
    job_delete_many,
    job_list,
)
from millhand.store.leader import LeaderRole, LeaderRow, leader_get
from millhand.store.query import Query
from millhand.store.queue import queue_get, queue_list, queue_pause, queue_resume, queue_update

ALL_JOBS = JobFilters()
# A term that is renewed is as long again, so its end tells when its leader was there last.
TERM = timedelta(seconds=15)
# A condition that PostgreSQL cannot read, whose types do not fit, or whose values cannot be computed.
_REFUSED_CLASSES = ("22", "42")


class JobPage(msgspec.Struct, frozen=True):
    """One page of a list of jobs. `cursor` is what the next page comes `after`; None if there is none."""

    jobs: tuple[JobRow, ...]
    cursor: str | None


class JobControl:
    """What can be done to jobs, whoever works them; `client.jobs`."""

    def __init__(self, driver: Driver, clock: Clock) -> None:
        self._clock = clock
        self._driver = driver

    async def get(self, id: int, *, tx: object | None = None) -> JobRow:
        """Return one job. Raises: NotFound."""
        return await self._executor(tx).run(job_get_by_id(JobId(id)))

    async def list(
        self,
        filters: JobFilters = ALL_JOBS,
        *,
        after: str | JobRow | None = None,
        descending: bool = False,
        limit: int = LIMIT_DEFAULT,
        order_by: SortField | str = SortField.ID,
        tx: object | None = None,
    ) -> JobPage:
        """
        Return a page of the jobs that pass `filters`, in an order, after the cursor of another page, or after a job.

        Cursors of River's clients do as well, for a list of the same order.

        Shape: up to `limit` jobs, 1 to 10,000. Raises: ValueError for what cannot be asked; InvalidWhere.
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
        self, states: Iterable[JobState] = JobState, *, tx: object | None = None
    ) -> Mapping[JobState, int]:
        """Return how many jobs are in each of `states`. Counting reads them all: ask for those you want to know."""
        return await self._executor(tx).run(job_count_by_state(states))

    async def cancel(self, id: int, *, tx: object | None = None) -> JobRow:
        """
        Cancel a job, and return it as it is then.

        One that is running is only asked to end: its client cancels the attempt, and whatever that raises, the job ends
        cancelled; a worker that pays no heed and succeeds completes it. A finalized job stays as it is.

        Raises: NotFound.
        Source: River v0.51.2, client.go `JobCancel`.
        """
        return await self._executor(tx).run(job_cancel(JobId(id), now=self._clock.now()))

    async def retry(self, id: int, *, tx: object | None = None) -> JobRow:
        """
        Make a job available at once, finalized or not, and return it as it is then.

        It gets one attempt more if it has none left. A job that is running, or available and due, stays as it is.
        Nobody is told; the next poll fetches it.

        Raises: NotFound; UniqueConflict if another job has its unique key by now.
        Source: River v0.51.2, client.go `JobRetry`.
        """
        try:
            return await self._executor(tx).run(job_retry(JobId(id)))
        except DriverError as error:
            if error.constraint == UNIQUE_CONSTRAINT:
                raise UniqueConflict(id) from error
            raise

    async def delete(self, id: int, *, tx: object | None = None) -> JobRow:
        """Delete a job that is not running, and return what it was. Raises: NotFound, JobRunning."""
        return await self._executor(tx).run(job_delete(JobId(id)))

    async def delete_many(
        self,
        filters: JobFilters,
        *,
        limit: int = LIMIT_DEFAULT,
        tx: object | None = None,
        unsafe_all: bool = False,
    ) -> Sequence[JobRow]:
        """
        Delete jobs that pass `filters`, those with the lowest ids, and return what they were.

        Running jobs stay, and so do those that another transaction holds. Filters that name nothing are refused, unless
        `unsafe_all` says that everything is meant.

        Shape: up to `limit` jobs, 1 to 10,000. Raises: ValueError; InvalidWhere.
        Source: River v0.51.2, client.go `JobDeleteMany`.
        """
        return await self._run_filtered(job_delete_many(filters, limit, unsafe_all=unsafe_all), filters, tx)

    async def update_output(self, id: int, output: Json, *, tx: object | None = None) -> JobRow:
        """
        Store a job's output, any JSON value, whatever state the job is in.

        Raises: NotFound; ValueError if it does not encode to JSON or is larger than 32 MiB.
        Source: River v0.51.2, client.go `JobUpdate`.
        """
        query = job_update_output(JobId(id), checked_output(output))
        return await self._executor(tx).run(query)

    async def _run_filtered(
        self, query: Query[builtins.list[JobRow]], filters: JobFilters, tx: object | None
    ) -> Sequence[JobRow]:
        try:
            return await self._executor(tx).run(query)
        except DriverError as error:
            if filters.where is None or error.sqlstate is None or error.sqlstate[:2] not in _REFUSED_CLASSES:
                raise
            raise InvalidWhere(filters.where.sql, error.reason, error.sqlstate) from error

    def _executor(self, tx: object | None) -> Executor:
        return self._driver.pool if tx is None else self._driver.executor(tx)


class QueueControl:
    """
    What can be done to queues, whoever works them; `client.queues`.

    A queue is known from when a client first works it until a day after the last one did; others are not found.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def get(self, name: str, *, tx: object | None = None) -> QueueRow:
        """Return one queue. Raises: NotFound."""
        return await self._executor(tx).run(queue_get(name))

    async def list(
        self, *, after_name: str = "", limit: int = LIMIT_DEFAULT, tx: object | None = None
    ) -> Sequence[QueueRow]:
        """Return up to `limit` queues by name, those behind `after_name`."""
        return await self._executor(tx).run(queue_list(limit=limit, after_name=after_name))

    async def pause(self, name: str, *, tx: object | None = None) -> None:
        """
        Have all clients stop to fetch from a queue, or from every one for `*`; what runs goes on.

        Raises: NotFound, never for `*`. Source: River v0.51.2, client.go `QueuePause`.
        """
        await self._executor(tx).run(queue_pause(name))

    async def resume(self, name: str, *, tx: object | None = None) -> None:
        """Have all clients fetch from a queue again, or from every one for `*`. Raises: NotFound, never for `*`."""
        await self._executor(tx).run(queue_resume(name))

    async def update(
        self, name: str, *, metadata: Mapping[str, Json] | None = None, tx: object | None = None
    ) -> QueueRow:
        """
        Replace a queue's metadata and tell all clients; None or an empty one leaves it. Return the queue.

        Raises: NotFound; DriverError for metadata of 8,000 bytes or more, which PostgreSQL cannot tell.
        Source: River v0.51.2, client.go `QueueUpdate`.
        """
        return await self._executor(tx).run(queue_update(name, metadata=metadata or None))

    def _executor(self, tx: object | None) -> Executor:
        return self._driver.pool if tx is None else self._driver.executor(tx)


class ClientControl:
    """Who works here, in whatever language; `client.clients`."""

    def __init__(self, driver: Driver, clock: Clock) -> None:
        self._clock = clock
        self._driver = driver

    async def list(self) -> Sequence[ClientRow]:
        """
        Return the clients that work jobs, or did within a day, by the time of their start; foreign ones come last.

        Foreign is who says nothing of itself, as clients of other languages do, and has worked jobs within the last
        minutes, or leads. Before migration 2 of line millhand all are.
        """
        pool = self._driver.pool
        leader = self._running(await pool.run(leader_get()))
        if not await pool.run(client_get_shape()):
            return _with_leaders([], leader, None)
        periodic_leader = self._running(await pool.run(leader_get(leader_role=LeaderRole.PERIODIC)))
        clients = await pool.run(client_list())
        foreign = [
            ClientRow(id=ClientId(one.name), state=ClientState.FOREIGN, last_seen_at=one.seen_at)
            for one in await pool.run(client_get_foreign())
            if one.what == "client"
        ]
        return _with_leaders([*clients, *foreign], leader, periodic_leader)

    def _running(self, leader: LeaderRow | None) -> LeaderRow | None:
        return leader if leader is not None and leader.expires_at > self._clock.now() else None


def _with_leaders(
    clients: Sequence[ClientRow], leader: LeaderRow | None, periodic_leader: LeaderRow | None
) -> Sequence[ClientRow]:
    """Return the clients with who leads marked, whether it was among them or not."""
    leader_id = None if leader is None else leader.leader_id
    periodic_id = None if periodic_leader is None else periodic_leader.leader_id
    marked = [
        msgspec.structs.replace(row, is_leader=row.id == leader_id, is_periodic_leader=row.id == periodic_id)
        for row in clients
    ]
    if leader is not None and all(row.id != leader.leader_id for row in clients):
        seen_at = leader.expires_at - TERM
        unheard = ClientRow(
            id=leader.leader_id, is_leader=True, last_seen_at=seen_at, state=ClientState.FOREIGN
        )
        marked.append(unheard)
    return marked
