"""Events: what became of this client's own jobs and queues, told after it was written."""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias

import msgspec

from millhand.job import JobRow


class EventKind(enum.StrEnum):
    """What happened. Source: River v0.51.2, event.go `EventKind*`."""

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
    """Units: seconds. `complete` is from hand-over to the completer until the row was written."""

    complete_seconds: float
    queue_wait_seconds: float
    run_seconds: float


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event; `job` and `statistics` for those of jobs, which are `JobEvent`s, `queue` always."""

    kind: EventKind
    queue: str
    job: JobRow | None = None
    statistics: JobStatistics | None = None


class JobEvent(Event, frozen=True, kw_only=True, gc=False):
    """What became of a job: its row as it was written."""

    job: JobRow
    statistics: JobStatistics
