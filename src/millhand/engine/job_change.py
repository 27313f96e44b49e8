"""
Changes of jobs, which may wait for slots of their queue's limit. Such a job is pending, and has a row of its place.

The statements of limits run only for a pending job: a schema of an older version has no such tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from millhand.core.errors import JobNotWaiting, JobRunning, UniqueConflict
from millhand.core.job import JobId, JobRow, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.bulk_change import BulkAction, job_change_many
from millhand.engine.store.job import LockedJob, job_cancel, job_delete, job_retry
from millhand.engine.store.job_snooze import job_snooze, limited_job_snooze
from millhand.engine.store.limit_report import limit_get_shape
from millhand.engine.store.limited_job import limited_job_retry_many


async def retry_job(executor: Executor, id: JobId, *, now: datetime | None = None) -> JobRow:
    """
    Make a job available now; one that waits for a slot keeps its place, and one that waits for its time begins to wait.

    Raises: as `job_retry`.
    """
    job = await executor.run(job_retry(id, keeps_pending=True, now=now))
    if job.state is not JobState.PENDING:
        return job
    waiting = await _retry_waiting(executor, [id], now)
    return waiting[0] if waiting else await executor.run(job_retry(id, now=now))


async def cancel_job(executor: Executor, id: JobId, now: datetime) -> JobRow:
    """Cancel a job; one that waits for a slot loses its place at the next admission. Raises: NotFound."""
    return await executor.run(job_cancel(id, now=now))


async def delete_job(executor: Executor, id: JobId) -> JobRow:
    """Delete a job that is not running; its place is deleted at the next admission. Raises: NotFound, JobRunning."""
    return await executor.run(job_delete(id))


async def snooze_job(executor: Executor, id: JobId, until: datetime) -> JobRow:
    """Let a waiting job wait until an instant, also one that waits for a slot. Raises: NotFound, JobNotWaiting."""
    try:
        return await executor.run(job_snooze(id, until))
    except JobNotWaiting as error:
        if error.state != JobState.PENDING or not await _has_limits(executor):
            raise
    return await executor.run(limited_job_snooze(id, until))


async def change_locked(
    executor: Executor, action: BulkAction, jobs: Sequence[LockedJob]
) -> dict[JobId, str | None]:
    """
    Retry, cancel or delete locked jobs as the functions for one job do; return why each was left, None for a changed one.

    Raises: DriverError with the constraint's name if another job takes a unique key meanwhile.
    """
    reasons = {job.id: left_because(action, job, job) for job in jobs}
    changes = [job_change_many(action, [*reasons])]
    pending = {job.id: job for job in jobs if job.state is JobState.PENDING}
    if pending and action is BulkAction.RETRY:
        waiting = await _retry_waiting(executor, [*pending])
        reasons |= {job.id: left_because(action, pending.pop(job.id), job) for job in waiting}
        changes.append(job_change_many(action, [*pending], keeps_pending=False))
    for change in changes:
        done = await executor.run(change)
        reasons |= dict.fromkeys(done.ids) | {id: str(UniqueConflict(id)) for id in done.conflicting}
    return reasons


async def _retry_waiting(
    executor: Executor, ids: Sequence[JobId], now: datetime | None = None
) -> list[JobRow]:
    """Retry those of pending jobs that wait for slots or their time in a limited queue, and return them."""
    return await executor.run(limited_job_retry_many(ids, now=now)) if await _has_limits(executor) else []


async def _has_limits(executor: Executor) -> bool:
    return await executor.run(limit_get_shape())


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
