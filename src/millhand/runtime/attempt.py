"""
One execution of a job in this client: made by the producer, worked by the executor.

Rule: an attempt is cancelled by its reason first and its task second; its meaning is the reason.
"""

from __future__ import annotations

import asyncio
import enum
from datetime import datetime

import msgspec

from millhand.job import JobRow


class CancelReason(enum.Enum):
    """Why an attempt is to end before its time."""

    LOST = "the client was declared dead, and its jobs were given to others"
    REMOTE = "somebody cancelled the job"
    STOPPING = "the client stops"
    TIMEOUT = "the worker's timeout passed"


class Attempt(msgspec.Struct, eq=False):
    """
    One execution of a job in this client: made by the producer, worked by the executor.

    A struct, for it is made in C; it is no value, and two of them are never the same.
    Units: `run_seconds` and `queue_wait_seconds` are seconds, known once it is settled.
    """

    row: JobRow
    has_slot: bool = True
    is_settled: bool = False
    is_stuck: bool = False
    queue_wait_seconds: float = 0.0
    reason: CancelReason | None = None
    run_seconds: float = 0.0
    started_at: datetime | None = None
    task: asyncio.Task[None] | None = None

    def cancel(self, reason: CancelReason) -> None:
        """Have the attempt end. The first reason counts, but for somebody's own wish, which always does."""
        if self.is_settled or self.reason is reason:
            return  # who was told so once may be cleaning up
        if self.reason is None or reason is CancelReason.REMOTE:
            self.reason = reason
        # A task cancelled before its first step would end without having run at all: the executor looks at the reason.
        if self.started_at is not None and self.task is not None:
            self.task.cancel()
