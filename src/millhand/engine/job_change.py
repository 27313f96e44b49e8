"""
Changes of jobs: what the API, the commands and the page call.

A pending job may wait for a capability, and has a row of its place then. Its statements run only for a pending job: a
schema of an older version has no such tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from millhand.core.errors import JobNotWaiting, JobRunning, UniqueConflict
from millhand.core.job import JobId, JobRow, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.bulk_change import BulkAction, job_change_many
from millhand.engine.store.job import LockedJob, job_cancel, job_delete, job_retry
from millhand.engine.store.job_snooze import job_snooze
from millhand.engine.waiting_jobs import WaitingJobs


class JobChanges:
    """Changes jobs, also those that `waiting` returns. Concurrency: any number of calls at once."""

    def __init__(self, waiting: Callable[[], WaitingJobs | None] = lambda: None) -> None:
        self._waiting = waiting

    async def retry(self, executor: Executor, id: JobId, *, now: datetime | None = None) -> JobRow:
        """
        Make a job available now.

        One that waits for a capability keeps its place, and one that waits for its time there begins to wait.

        Raises: as `job_retry`.
        """
        job = await executor.run(job_retry(id, keeps_pending=True, now=now))
        if job.state is not JobState.PENDING:
            return job
        waiting = await self._retry_waiting(executor, [id], now)
        return waiting[0] if waiting else await executor.run(job_retry(id, now=now))

    async def cancel(self, executor: Executor, id: JobId, now: datetime) -> JobRow:
        """Cancel a job; one that waits for a capability loses its place soon. Raises: NotFound."""
        return await executor.run(job_cancel(id, now=now))

    async def delete(self, executor: Executor, id: JobId) -> JobRow:
        """Delete a job that is not running; its place is deleted soon. Raises: NotFound, JobRunning."""
        return await executor.run(job_delete(id))

    async def snooze(self, executor: Executor, id: JobId, until: datetime) -> JobRow:
        """Let a job that is not running and not ended wait until an instant. Raises: NotFound, JobNotWaiting."""
        try:
            return await executor.run(job_snooze(id, until))
        except JobNotWaiting as error:
            waiting = await self._waiting_in(executor) if error.state == JobState.PENDING else None
            if waiting is None:
                raise
        return await executor.run(waiting.snooze(id, until))

    async def change_locked(
        self, executor: Executor, action: BulkAction, jobs: Sequence[LockedJob]
    ) -> dict[JobId, str | None]:
        """
        Retry, cancel or delete locked jobs as the methods for one job do; return why each was left, None for a changed one.

        Raises: DriverError with the constraint's name if another job takes a unique key meanwhile.
        """
        reasons = {job.id: left_because(action, job, job) for job in jobs}
        changes = [job_change_many(action, [*reasons])]
        pending = {job.id: job for job in jobs if job.state is JobState.PENDING}
        if pending and action is BulkAction.RETRY:
            waiting = await self._retry_waiting(executor, [*pending])
            reasons |= {job.id: left_because(action, pending.pop(job.id), job) for job in waiting}
            changes.append(job_change_many(action, [*pending], keeps_pending=False))
        for change in changes:
            done = await executor.run(change)
            reasons |= dict.fromkeys(done.ids) | {id: str(UniqueConflict(id)) for id in done.conflicting}
        return reasons

    async def _retry_waiting(
        self, executor: Executor, ids: Sequence[JobId], now: datetime | None = None
    ) -> list[JobRow]:
        """Retry those of pending jobs that wait for a capability or for their time, and return them."""
        waiting = await self._waiting_in(executor)
        return [] if waiting is None else await executor.run(waiting.retry_many(ids, now=now))

    async def _waiting_in(self, executor: Executor) -> WaitingJobs | None:
        waiting = self._waiting()
        return waiting if waiting and await waiting.are_there(executor) else None


def left_because(verb: str, before: JobRow | LockedJob, after: JobRow | LockedJob) -> str | None:
    """Return why the job was left as it was; None if it was changed. The rows are those around the change."""
    got = f"got job {after.id} {after.state}"
    if verb == "delete" and after.state is JobState.RUNNING:
        return str(JobRunning(after.id))
    if verb == "cancel" and before.state.is_finalized:
        return f"job must not be finalized to be cancelled, {got}"
    if verb == "retry" and after.state is JobState.RUNNING:
        return f"job must not be running to be retried, {got}; wait until its attempt ends, or cancel it"
    if verb == "retry" and before.state is JobState.AVAILABLE and after.scheduled_at == before.scheduled_at:
        return f"job must not be due to be retried, {got}; it runs when a client works queue {after.queue!r}"
    if verb == "retry" and after.state is JobState.PENDING and after.scheduled_at == before.scheduled_at:
        return f"job must not wait for a slot to be retried, {got}; see millhand limit show {after.queue}"
    return None
