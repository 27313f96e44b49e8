"""
One execution of a job in this client: made by the producer, worked by the executor.

Rule: an attempt is cancelled by its reason first and its task second; its meaning is the reason.
"""

from __future__ import annotations

import asyncio
import enum
from datetime import datetime

from millhand.job import JobRow


class CancelReason(enum.Enum):
    """Why an attempt is to end before its time."""

    LOST = "the client was given up, and its jobs were given to others"
    REMOTE = "somebody cancelled the job"
    STOPPING = "the client stops"
    TIMEOUT = "the worker's timeout passed"


class Attempt:
    """
    One execution of a job in this client: made by the producer, worked by the executor.

    Units: `run_seconds` and `queue_wait_seconds` are seconds, known once it is settled.
    """

    __slots__ = (
        "has_slot",
        "is_settled",
        "is_stuck",
        "queue_wait_seconds",
        "reason",
        "row",
        "run_seconds",
        "started_at",
        "task",
    )

    def __init__(self, row: JobRow) -> None:
        self.has_slot = True
        self.is_settled = False
        self.is_stuck = False
        self.queue_wait_seconds = 0.0
        self.reason: CancelReason | None = None
        self.row = row
        self.run_seconds = 0.0
        self.started_at: datetime | None = None
        self.task: asyncio.Task[None] | None = None

    def cancel(self, reason: CancelReason) -> None:
        """Have the attempt end. The first reason counts, but for somebody's own wish, which always does."""
        if self.is_settled or self.reason is reason:
            return  # who was told so once may be cleaning up
        if self.reason is None or reason is CancelReason.REMOTE:
            self.reason = reason
        # A task cancelled before its first step would end without having run at all: the executor looks at the reason.
        if self.started_at is not None and self.task is not None:
            self.task.cancel()
