"""
One attempt of a job in this client: created by the producer, worked by the executor.

Rule: a cancel sets the reason first and cancels the task second. The reason decides the outcome.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from millhand.core.job import JobId, JobRow

NUM_IDS_MAX = 100  # of a line, or of each state in one
NUM_KINDS_MAX = 5


class CancelReason(enum.Enum):
    """Why an attempt was cancelled."""

    LOST = "the client was declared dead, and its jobs were given to others"
    REMOTE = "the job was cancelled"
    STOPPING = "the client stops"
    TIMEOUT = "the worker's timeout passed"


class Attempt(msgspec.Struct, eq=False):
    """
    One attempt of a job in this client.

    A struct because its constructor is in C. Compared by identity.
    Units: `run_seconds` and `queue_wait_seconds` are seconds, known once the attempt is settled; `started` is monotonic.
    """

    row: JobRow
    has_slot: bool = True
    is_settled: bool = False
    is_stuck: bool = False
    queue_wait_seconds: float = 0.0
    reason: CancelReason | None = None
    run_seconds: float = 0.0
    started: float | None = None
    task: asyncio.Task[None] | None = None

    def cancel(self, reason: CancelReason) -> None:
        """Cancel the attempt. The first reason decides, except that REMOTE replaces every other one."""
        if self.is_settled or self.reason is reason:
            return  # a second cancel would interrupt the worker's cleanup
        if self.reason is None or reason is CancelReason.REMOTE:
            self.reason = reason
        # A task cancelled before its first step would end without running. The executor checks the reason then.
        if self.started is not None and self.task is not None:
            self.task.cancel()


def task_maker(loop: asyncio.AbstractEventLoop) -> Callable[[Any], asyncio.Task[None]]:
    """
    Return what makes the task of an attempt.

    Not the loop's own method, which takes a tenth of the time of a task, unless the application has set a task factory.
    From Python 3.12 on, tasks are eager: a job that awaits nothing ends without a turn of the event loop.
    """
    if loop.get_task_factory() is not None:
        return loop.create_task
    if sys.version_info < (3, 12):
        return functools.partial(asyncio.Task, loop=loop)
    return functools.partial(asyncio.Task, loop=loop, eager_start=True)


def jobs_fields(attempts: Collection[Attempt]) -> dict[str, int | str]:
    """Return the log fields of attempts: how many, the most frequent kinds with their numbers, and the job ids."""
    kinds = Counter(attempt.row.kind for attempt in attempts)
    named = ",".join(f"{kind}:{number}" for kind, number in kinds.most_common(NUM_KINDS_MAX))
    num_left = len(kinds) - NUM_KINDS_MAX
    return {
        "num_jobs": len(attempts),
        "kinds": f"{named} and {num_left} more" if num_left > 0 else named,
        "job_ids": format_ids(sorted({attempt.row.id for attempt in attempts})),
    }


def format_ids(ids: Sequence[JobId]) -> str:
    """Return the first ids as a log line has them, and how many more there are."""
    text = " ".join(str(id) for id in ids[:NUM_IDS_MAX])
    return text if len(ids) <= NUM_IDS_MAX else f"{text} and {len(ids) - NUM_IDS_MAX} more"
