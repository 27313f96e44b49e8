"""
One attempt of a job in this client: created by the producer, worked by the executor, cancelled at its deadline.

Rule 1: a cancel sets the reason first and cancels the task second. The reason decides the outcome.
Rule 2: attempts with one timeout expire in the order in which they started, so a dict in insertion order and one timer for
        its head are enough. Most attempts end long before: removing one from a dict takes 0.2 µs, cancelling a timer of its
        own 1.3 µs, and `asyncio.timeout` takes 4 µs.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from millhand.core.job import JobId, JobRow

T = TypeVar("T")

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


class Deadlines(Generic[T]):
    """
    Calls `expire(item)` for each item that was not discarded in time.

    Units: seconds, of the event loop's clock. Concurrency: belongs to one event loop.
    """

    def __init__(self, expire: Callable[[T], None]) -> None:
        self._expire = expire
        self._queues: dict[float, _Queue[T]] = {}

    def add(self, item: T, timeout_seconds: float) -> None:
        """Start a timeout; an item may have one of each length."""
        queue = self._queues.get(timeout_seconds)
        if queue is None:
            queue = self._queues[timeout_seconds] = _Queue(self._expire)
        due_at = queue.due_at[item] = queue.time() + timeout_seconds
        if queue.timer is None:
            queue.set_timer(due_at)

    def discard(self, item: T, timeout_seconds: float) -> None:
        """End a timeout; does nothing without one."""
        queue = self._queues.get(timeout_seconds)
        if queue is not None:
            queue.due_at.pop(item, None)

    def close(self) -> None:
        for queue in self._queues.values():
            queue.close()
        self._queues.clear()


class _Queue(Generic[T]):
    __slots__ = ("_expire", "_loop", "due_at", "time", "timer")

    def __init__(self, expire: Callable[[T], None]) -> None:
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self.due_at: dict[T, float] = {}
        self.time = self._loop.time
        self.timer: asyncio.TimerHandle | None = None

    def set_timer(self, due_at: float) -> None:
        # With a context of its own: the attempt that sets the timer is not the one that expires, and must not be logged.
        self.timer = self._loop.call_at(due_at, self._expire_due, context=contextvars.Context())

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.due_at.clear()

    def _expire_due(self) -> None:
        self.timer = None
        # A timer may fire early by the clock's resolution.
        horizon = self.time() + 1e-3
        expired = []
        for item, due_at in self.due_at.items():
            if due_at > horizon:
                self.set_timer(due_at)
                break
            expired.append(item)
        for item in expired:
            del self.due_at[item]
        for item in expired:
            self._expire(item)


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
