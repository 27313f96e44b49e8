"""One job: what it waits for, its attempts, and its args."""

from __future__ import annotations

import asyncio

import msgspec

from millhand.errors import NotFound
from millhand.job import JobState
from millhand.store.job_details import JobDetails, job_get_details
from millhand.store.queue_load import queue_get_loads
from millhand.web.attempts import Attempt, attempts_of
from millhand.web.page import PageRequest
from millhand.web.waiting import Wait, wait_of

_WAITING = (JobState.AVAILABLE, JobState.PENDING, JobState.RETRYABLE, JobState.SCHEDULED)


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    One job.

    `can` names the changes that its state allows: `retry`, `cancel`, `delete`, `snooze`.
    """

    job: JobDetails
    attempts: tuple[Attempt, ...]
    wait: Wait | None
    can: tuple[str, ...]


async def load(request: PageRequest) -> JobPage:
    """Load one job. Raises: NotFound."""
    database = request.database
    job = request.hide.job(await database.run(job_get_details(request.path["id"])))
    if not request.user.sees(queue=job.queue, kind=job.kind):
        raise NotFound("job", job.id)
    return JobPage(
        job=job,
        attempts=attempts_of(job),
        wait=await _wait(job, request) if job.state in _WAITING else None,
        can=changes_of(job.state),
    )


def changes_of(state: JobState) -> tuple[str, ...]:
    """Return the changes that a job's state allows."""
    match state:
        case JobState.RUNNING:
            return ("cancel",)
        case JobState.AVAILABLE:
            return ("snooze", "cancel", "delete")
        case JobState.SCHEDULED | JobState.RETRYABLE | JobState.PENDING:
            return ("retry", "snooze", "cancel", "delete")
        case _:
            return ("retry", "delete")


async def _wait(job: JobDetails, request: PageRequest) -> Wait | None:
    clients, [load] = await asyncio.gather(
        request.database.clients.list(), request.database.run(queue_get_loads([job.queue]))
    )
    return wait_of(job, now=request.now, queue=load.row, clients=clients, num_running=load.running)
