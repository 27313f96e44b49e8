"""A change of one job, or of the selected ones of a list, in the scope of the user."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from millhand.core.errors import (
    UNIQUE_CONSTRAINT,
    DriverError,
    JobNotDiscarded,
    JobNotWaiting,
    JobRunning,
    MillhandError,
    NotFound,
    UniqueConflict,
)
from millhand.core.job import JobId, JobRow, JobState, Json
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_get_by_id
from millhand.shells.settings.web_user import User
from millhand.shells.web.change import Changed, ChangeRequest, record
from millhand.shells.web.form import ID_MAX, whole_number

Change = Callable[[Executor, JobId], Awaitable[object]]

SELECTED_MAX = 100  # one page of a list


class JobUnchanged(MillhandError):
    """The change has left the job as it was, because the state of the job leaves nothing to change."""


# Why a selected job is left, and the others are changed.
LEFT = (JobNotDiscarded, JobNotWaiting, JobRunning, JobUnchanged, NotFound, UniqueConflict)


class Subject(NamedTuple):
    """What is changed, and how its job is found."""

    noun: str
    find: Callable[[Executor, JobId], Awaitable[JobRow]]


async def _find_job(tx: Executor, id: JobId) -> JobRow:
    return await tx.run(job_get_by_id(id))


JOB = Subject("job", _find_job)


async def change_one(
    request: ChangeRequest,
    action: str,
    change: Change,
    *,
    detail: Mapping[str, Json] | None = None,
    path: str | None = None,
    of: Subject = JOB,
) -> Changed:
    """Change the job of the path. Raises: NotFound; as `change`."""
    id = job_id_of(request)
    async with request.database.driver.pool.begin() as tx:
        after = await _run_on_job(tx, request.user, id, change, of)
        stopping = (id,) if _is_stopping(after) else ()
        done = Changed(
            action=action, subject=f"{of.noun} {id}", num_jobs=1, ids=(id,), stopping=stopping, path=path
        )
        await record(tx, request, done, {**(detail or {}), **_detail(stopping)})
    return done


async def change_selected(
    request: ChangeRequest, action: str, change: Change, *, of: Subject = JOB
) -> Changed:
    """Change each selected job in a savepoint of its own, so that one that cannot be changed does not keep the others."""
    ids = _selected(request)
    changed: list[JobId] = []
    stopping: list[JobId] = []
    skipped: dict[str, str] = {}
    async with request.database.driver.pool.begin() as tx:
        for id in ids:
            try:
                async with tx.begin() as savepoint:
                    after = await _run_on_job(savepoint, request.user, id, change, of)
            except LEFT as error:
                skipped[str(id)] = str(error)
            else:
                changed.append(id)
                if _is_stopping(after):
                    stopping.append(id)
        done = Changed(
            action=action,
            subject=f"selected {of.noun}s",
            num_jobs=len(changed),
            ids=tuple(changed),
            stopping=tuple(stopping),
            skipped=skipped,
        )
        await record(tx, request, done, {"ids": [*changed], "skipped": [*skipped], **_detail(stopping)})
    return done


async def _run_on_job(tx: Executor, user: User, id: JobId, change: Change, of: Subject) -> object:
    """Change a job within the user's scope, and return the result; a job beyond it is as one that does not exist."""
    if user.is_limited:
        check_scope(user, await of.find(tx, id), of.noun)
    try:
        return await change(tx, id)
    except DriverError as error:
        if error.constraint == UNIQUE_CONSTRAINT:
            raise UniqueConflict(id) from error
        raise


def _is_stopping(after: object) -> bool:
    """Return whether a change has left a job running, which it has asked to stop."""
    return isinstance(after, JobRow) and after.state is JobState.RUNNING


def _detail(stopping: Sequence[JobId]) -> dict[str, Json]:
    return {"stopping": [*stopping]} if stopping else {}


def check_scope(user: User, job: JobRow, noun: str = JOB.noun) -> None:
    if not user.sees(queue=job.queue, kind=job.kind):
        raise NotFound(noun, job.id)


def job_id_of(request: ChangeRequest) -> JobId:
    return JobId(request.path["id"])


def _selected(request: ChangeRequest) -> list[JobId]:
    texts = request.form.get("ids", ())
    if not texts or len(texts) > SELECTED_MAX:
        raise ValueError(
            f"ids must be given 1 to {SELECTED_MAX} times, got {len(texts)}; select jobs of the list"
        )
    # By id, as other changes lock jobs: two orders could be a deadlock.
    return sorted({JobId(whole_number("ids", text, maximum=ID_MAX)) for text in texts})
