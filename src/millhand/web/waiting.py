"""Why a job is not running: a decision from its row, its queue and the clients."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime

import msgspec

from millhand.core.client_row import ClientRow, ClientState
from millhand.core.job import JobState
from millhand.core.queue import QueueRow
from millhand.engine.store.job_details import JobDetails
from millhand.limits.report_store import JobPlace


class WaitReason(enum.StrEnum):
    """What a job waits for."""

    SCHEDULED = "scheduled"  # its time
    RETRY = "retry"  # the time of its next attempt
    FLOW = "flow"  # tasks of its flow
    PENDING = "pending"  # code that makes it available
    PAUSED = "paused"  # its queue is paused
    NO_CLIENT = "no_client"  # no client works its queue
    UNKNOWN_KIND = "unknown_kind"  # clients work its queue, and none knows its kind
    SLOTS = "slots"  # every slot of the queue's clients is taken
    LIMIT = "limit"  # a slot of its queue's limit
    HELD = "held"  # its partition is held
    HALTED = "halted"
    RATE = "rate"  # the next start that the rate of its queue's limit allows
    ORDER = "order"  # the jobs of its partition before it
    FETCH = "fetch"  # the next fetch, after jobs that are due before it


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a job waits for.

    `until` is when it is due, when its partition's hold ends or next job starts, or since when its queue is paused.
    """

    reason: WaitReason
    until: datetime | None = None
    num_slots: int | None = None


def wait_of(
    job: JobDetails,
    *,
    now: datetime,
    queue: QueueRow | None,
    clients: Sequence[ClientRow],
    num_running: int,
    place: JobPlace | None = None,
    has_flow: bool = False,
) -> Wait | None:
    """
    Return what a job waits for, or None if it is running or has ended.

    `has_flow` says that it is a task which waits for others of its flow.
    A client in another language does not report its queues and kinds. While there is one, no answer blames a missing
    client.
    """
    match job.state:
        case JobState.PENDING if place is not None and not place.has_slot:
            if place.is_later:
                return Wait(reason=WaitReason.SCHEDULED, until=place.due_at)
            wait = _wait_when_due(job, queue=queue, clients=clients, num_running=num_running)
            return _wait_for_slot(place) if wait.reason in (WaitReason.FETCH, WaitReason.SLOTS) else wait
        case JobState.PENDING:
            return Wait(reason=WaitReason.FLOW if has_flow else WaitReason.PENDING)
        case JobState.SCHEDULED if job.scheduled_at > now:
            return Wait(reason=WaitReason.SCHEDULED, until=job.scheduled_at)
        case JobState.RETRYABLE if job.scheduled_at > now:
            return Wait(reason=WaitReason.RETRY, until=job.scheduled_at)
        case JobState.AVAILABLE | JobState.SCHEDULED | JobState.RETRYABLE:
            return _wait_when_due(job, queue=queue, clients=clients, num_running=num_running)
        case _:
            return None


def _wait_for_slot(place: JobPlace) -> Wait:
    if place.halted_by is not None:
        return Wait(reason=WaitReason.HALTED)
    if place.held_until is not None:
        return Wait(reason=WaitReason.HELD, until=place.held_until)
    if place.behind is not None:
        return Wait(reason=WaitReason.ORDER)
    if place.next_start_at is not None:
        return Wait(reason=WaitReason.RATE, until=place.next_start_at)
    return Wait(reason=WaitReason.LIMIT)


def _wait_when_due(
    job: JobDetails, *, queue: QueueRow | None, clients: Sequence[ClientRow], num_running: int
) -> Wait:
    if queue is not None and queue.paused_at is not None:
        return Wait(reason=WaitReason.PAUSED, until=queue.paused_at)
    working = [
        client for client in clients if client.state is ClientState.WORKING and job.queue in client.queues
    ]
    if any(client.state is ClientState.UNREGISTERED for client in clients):
        return Wait(reason=WaitReason.FETCH)
    if not working:
        return Wait(reason=WaitReason.NO_CLIENT)
    if not any(job.kind in client.kinds for client in working):
        return Wait(reason=WaitReason.UNKNOWN_KIND)
    num_slots = sum(client.queues[job.queue] for client in working)
    if num_running >= num_slots:
        return Wait(reason=WaitReason.SLOTS, num_slots=num_slots)
    return Wait(reason=WaitReason.FETCH)
