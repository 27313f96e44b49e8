"""One job: what it waits for, its attempts, and its args."""

from __future__ import annotations

import asyncio

import msgspec

from millhand.core.errors import NotFound
from millhand.core.job import JobState
from millhand.core.limit import key_name
from millhand.dead_jobs.page_store import dead_job_exists, dead_job_is_readable
from millhand.engine.fleet import load_fleet
from millhand.engine.store.job_details import JobDetails, job_get_details
from millhand.engine.store.queue_load import queue_get_loads
from millhand.flows.flow import FLOW_NAME_KEY, TaskState
from millhand.flows.page import shown_name
from millhand.flows.page_store import FlowOfJob, flow_get_of_job
from millhand.flows.store import flow_get_shape
from millhand.limits.page import shown_key
from millhand.limits.report_store import JobPlace, limit_get_place, limit_get_shape
from millhand.shells.web.page import PageRequest
from millhand.web.attempts import Attempt, attempts_of
from millhand.web.waiting import Wait, wait_of

_WAITING = (JobState.AVAILABLE, JobState.PENDING, JobState.RETRYABLE, JobState.SCHEDULED)


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    One job.

    `can` names the changes that its state allows: `retry`, `cancel`, `delete`, `snooze`. `place` is its place in the limit
    of its queue; None if it has none. `partition` is how a person reads its partition there. `flow` is the flow whose task
    it is; None if it is none, or for a user with limits. `has_dead_letter` is whether the job was discarded and has a copy.
    """

    job: JobDetails
    attempts: tuple[Attempt, ...]
    wait: Wait | None
    can: tuple[str, ...]
    place: JobPlace | None = None
    partition: str | None = None
    flow: FlowOfJob | None = None
    has_dead_letter: bool = False


async def load(request: PageRequest) -> JobPage:
    """Load one job. Raises: NotFound."""
    database = request.database
    job = request.hide.job(await database.run(job_get_details(request.path["id"])))
    if not request.user.sees(queue=job.queue, kind=job.kind):
        raise NotFound("job", job.id)
    place, flow = await _place(job, request), await _flow(job, request)
    return JobPage(
        job=job,
        attempts=attempts_of(job),
        wait=await _wait(job, place, flow, request) if job.state in _WAITING else None,
        can=changes_of(job.state),
        place=place,
        partition=None if place is None else key_name(place.partition),
        flow=flow,
        has_dead_letter=await _has_dead_letter(job, request),
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


async def _place(job: JobDetails, request: PageRequest) -> JobPlace | None:
    if job.state.is_finalized or not await request.database.has(limit_get_shape):
        return None
    place = await request.database.run(limit_get_place(job.id))
    if place is None:
        return None
    key = shown_key(
        place.partition, place.by_args, request.hide, by_kind=place.by_kind, is_current=place.is_current
    )
    return msgspec.structs.replace(place, partition=key)


async def _flow(job: JobDetails, request: PageRequest) -> FlowOfJob | None:
    if request.user.is_limited or not await request.database.has(flow_get_shape):
        return None
    flow = await request.database.run(flow_get_of_job(job.id))
    if flow is None:
        return None
    return msgspec.structs.replace(flow, name=shown_name(FLOW_NAME_KEY, flow.name, request.hide))


async def _has_dead_letter(job: JobDetails, request: PageRequest) -> bool:
    if job.state is not JobState.DISCARDED or not await request.database.has(dead_job_is_readable):
        return False
    return await request.database.run(dead_job_exists(job.id))


async def _wait(
    job: JobDetails, place: JobPlace | None, flow: FlowOfJob | None, request: PageRequest
) -> Wait | None:
    fleet, [load] = await asyncio.gather(
        load_fleet(request.database, request.now), request.database.run(queue_get_loads([job.queue]))
    )
    return wait_of(
        job,
        now=request.now,
        queue=load.row,
        clients=fleet.clients,
        num_running=load.running,
        place=place,
        has_flow=flow is not None and flow.state is TaskState.WAITING,
    )
