"""Changes of dead letters: one by one, and the selected ones of a list."""

from __future__ import annotations

from millhand.core.errors import ConfigError
from millhand.core.job import JobId, JobRow
from millhand.db.driver.protocol import Executor
from millhand.dead_jobs.control import delete_dead_job, retry_dead_job
from millhand.dead_jobs.page_store import dead_job_is_readable
from millhand.dead_jobs.store import SUBJECT, dead_job_lock
from millhand.shells.web.change import Changed, ChangeRequest
from millhand.shells.web.job_selection import Subject, change_one, change_selected

NEEDS_MIGRATION = (
    "dead letters must have their table, which is not there or not yours; run millhand migrate up"
)


async def retry_dead(request: ChangeRequest) -> Changed:
    """Make the job of a dead letter available, and delete the dead letter. Raises: NotFound, UniqueConflict."""
    await _check(request)
    return await change_one(request, "retry", retry_dead_job, path=f"/jobs/{request.path['id']}", of=_LETTER)


async def delete_dead(request: ChangeRequest) -> Changed:
    """Delete a dead letter, and the row of its job if that is still discarded. Raises: NotFound."""
    await _check(request)
    return await change_one(request, "delete", delete_dead_job, path="/dead", of=_LETTER)


async def retry_selected_dead(request: ChangeRequest) -> Changed:
    """Make the jobs of the selected dead letters available."""
    await _check(request)
    return await change_selected(request, "retry", retry_dead_job, of=_LETTER)


async def delete_selected_dead(request: ChangeRequest) -> Changed:
    """Delete the selected dead letters."""
    await _check(request)
    return await change_selected(request, "delete", delete_dead_job, of=_LETTER)


async def _find(tx: Executor, id: JobId) -> JobRow:
    return (await tx.run(dead_job_lock(id))).job


_LETTER = Subject(SUBJECT, _find)


async def _check(request: ChangeRequest) -> None:
    if not await request.database.has(dead_job_is_readable):
        raise ConfigError(NEEDS_MIGRATION)
