"""Events of a client's own jobs and queues, emitted after the change is written."""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias

import msgspec

from millhand.core.job import JobRow


class EventKind(enum.StrEnum):
    """
    What happened to a job or queue.

    A failed job is `JOB_FAILED` whether it is retried or discarded. `JOB_INTERRUPTED` is an attempt that a stopping
    client cancelled.

    Source: River v0.51.2, event.go `EventKind*`.
    """

    JOB_CANCELLED = "job_cancelled"
    JOB_COMPLETED = "job_completed"
    JOB_FAILED = "job_failed"
    JOB_INTERRUPTED = "job_interrupted"
    JOB_SNOOZED = "job_snoozed"
    QUEUE_PAUSED = "queue_paused"
    QUEUE_RESUMED = "queue_resumed"


JobEventKind: TypeAlias = Literal[
    EventKind.JOB_CANCELLED,
    EventKind.JOB_COMPLETED,
    EventKind.JOB_FAILED,
    EventKind.JOB_INTERRUPTED,
    EventKind.JOB_SNOOZED,
]


class JobStatistics(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    How long the parts of an attempt took, in seconds.

    Attributes:
        complete_seconds: From the end of the attempt until its row was written.
        queue_wait_seconds: From `scheduled_at` until the attempt began.
        run_seconds: The attempt itself.
    """

    complete_seconds: float
    queue_wait_seconds: float
    run_seconds: float


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    One event. Those of jobs are `JobEvent`s.

    Attributes:
        queue: The queue, or the queue of the job.
        job: The job's row as written; None for an event of a queue.
        statistics: None for an event of a queue.
    """

    kind: EventKind
    queue: str
    job: JobRow | None = None
    statistics: JobStatistics | None = None


class JobEvent(Event, frozen=True, kw_only=True, gc=False):
    """The event of a job, with its row as written."""

    job: JobRow
    statistics: JobStatistics
