"""Changes of jobs: one by one, the selected ones of a list, and new ones."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial

from millhand.capabilities import JOB_CHANGES
from millhand.core.args.codec import RawArgs
from millhand.core.errors import InvalidJob
from millhand.core.insert_opts import MAX_ATTEMPTS_DEFAULT, InsertOpts, insert_params_many
from millhand.core.job import JobId, JobRow, Json
from millhand.db.driver.protocol import Executor
from millhand.engine.job_change import left_because
from millhand.engine.store.job import job_get_by_id, job_lock
from millhand.engine.store.job_insert import job_insert_many
from millhand.shells.web.change import Changed, ChangeRequest, record
from millhand.shells.web.form import ID_MAX, seconds_of, whole_number
from millhand.shells.web.job_selection import (
    JobUnchanged,
    change_one,
    change_selected,
    check_scope,
    job_id_of,
)


async def retry_job(request: ChangeRequest) -> Changed:
    """Make a job available at once. Raises: NotFound, UniqueConflict, JobUnchanged."""
    return await change_one(request, "retry", _retry)


async def cancel_job(request: ChangeRequest) -> Changed:
    """Cancel a job; a running one is asked to stop. Raises: NotFound, JobUnchanged."""
    return await change_one(request, "cancel", partial(_cancel, now=request.now))


async def delete_job(request: ChangeRequest) -> Changed:
    """Delete a job that is not running. Raises: NotFound, JobRunning."""
    return await change_one(request, "delete", JOB_CHANGES.delete, path="/jobs")


async def snooze_job(request: ChangeRequest) -> Changed:
    """Let a waiting job wait for `seconds`. Raises: NotFound, JobNotWaiting, ValueError."""
    until = request.now + seconds_of(request.field("seconds"))
    return await change_one(
        request, "snooze", partial(JOB_CHANGES.snooze, until=until), detail={"until": until.isoformat()}
    )


async def retry_selected(request: ChangeRequest) -> Changed:
    """Make the selected jobs available at once."""
    return await change_selected(request, "retry", _retry)


async def cancel_selected(request: ChangeRequest) -> Changed:
    """Cancel the selected jobs; running ones are asked to stop."""
    return await change_selected(request, "cancel", partial(_cancel, now=request.now))


async def delete_selected(request: ChangeRequest) -> Changed:
    """Delete those of the selected jobs that are not running."""
    return await change_selected(request, "delete", JOB_CHANGES.delete)


async def insert_job(request: ChangeRequest) -> Changed:
    """
    Insert a job of `kind` with the JSON object `args`, and optionally `queue`, `priority`, `max_attempts` and `tags`.

    With `copy_of`, missing `args` are those of that job. Raises: InvalidJob, ValueError, NotFound.
    """
    kind, queue = request.field("kind"), request.field("queue") or None
    priority, max_attempts = _whole(request, "priority"), _whole(request, "max_attempts")
    tags = tuple(request.field("tags").replace(",", " ").split())
    opts = InsertOpts(max_attempts=max_attempts, priority=priority, queue=queue, tags=tags or None)
    args, copy_of = request.field("args"), request.field("copy_of")
    if not copy_of:
        return await _insert(request, "insert", RawArgs(kind, args or "{}"), opts, detail={})
    source = await _source(request, JobId(whole_number("copy_of", copy_of, maximum=ID_MAX)))
    detail = {"copy_of": source.id}
    return await _insert(request, "copy", RawArgs(kind, args or source.encoded_args), opts, detail=detail)


async def copy_job(request: ChangeRequest) -> Changed:
    """
    Insert a copy of a job, with other `args` if given; it keeps kind, queue, priority, tags and number of attempts.

    It keeps no unique key: the copy is wanted although the job is there. Raises: NotFound, InvalidJob.
    """
    source = await _source(request, job_id_of(request))
    opts = InsertOpts(
        max_attempts=source.max_attempts,
        priority=source.priority,
        queue=source.queue,
        tags=source.tags or None,
    )
    args = RawArgs(source.kind, request.field("args") or source.encoded_args)
    return await _insert(request, "copy", args, opts, detail={"copy_of": source.id})


async def _source(request: ChangeRequest, id: JobId) -> JobRow:
    """Return the job that is copied. Raises: NotFound."""
    source = await request.database.run(job_get_by_id(id))
    check_scope(request.user, source)
    return source


async def _retry(tx: Executor, id: JobId) -> JobRow:
    before = await tx.run(job_lock(id))
    return _changed("retry", before, await JOB_CHANGES.retry(tx, id))


async def _cancel(tx: Executor, id: JobId, *, now: datetime) -> JobRow:
    before = await tx.run(job_lock(id))
    return _changed("cancel", before, await JOB_CHANGES.cancel(tx, id, now))


def _changed(verb: str, before: JobRow, after: JobRow) -> JobRow:
    """Return the row after a change. Raises: JobUnchanged."""
    reason = left_because(verb, before, after)
    if reason is not None:
        raise JobUnchanged(reason)
    return after


async def _insert(
    request: ChangeRequest, action: str, args: RawArgs, opts: InsertOpts, *, detail: Mapping[str, Json]
) -> Changed:
    [params] = insert_params_many([(args, opts)], now=request.now, default_max_attempts=MAX_ATTEMPTS_DEFAULT)
    if not request.user.sees(queue=params.queue, kind=params.kind):
        raise InvalidJob(f"kind and queue must be yours, got {params.kind!r} and {params.queue!r}")
    async with request.database.driver.pool.begin() as tx:
        [result] = await tx.run(job_insert_many([params], notify_queues=[params.queue]))
        id = result.job.id
        done = Changed(action=action, subject=f"job {id}", num_jobs=1, ids=(id,), path=f"/jobs/{id}")
        await record(tx, request, done, {**detail, "kind": params.kind, "queue": params.queue})
    return done


def _whole(request: ChangeRequest, name: str) -> int | None:
    text = request.field(name)
    return whole_number(name, text, maximum=32_767) if text else None
