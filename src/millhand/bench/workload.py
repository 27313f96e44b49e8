"""The job that is worked, and what a worker's process remembers of it."""

from __future__ import annotations

import asyncio
import time
from array import array
from typing import ClassVar

import msgspec


class Noop(msgspec.Struct, frozen=True):
    """The args of a job that does nothing but say that it was begun."""

    kind: ClassVar[str] = "noop"

    n: int


class Tally:
    """
    When each of `num_jobs` jobs was begun, and when the last of them was durably completed.

    Units: nanoseconds of the machine's monotonic clock, which all processes of one machine share; 0 is for never.
    """

    __slots__ = ("_end", "finished_ns", "num_completed", "num_jobs", "num_repeated", "started_ns")

    def __init__(self, num_jobs: int) -> None:
        self._end = asyncio.Event()
        self.finished_ns = 0
        self.num_completed = 0
        self.num_jobs = num_jobs
        self.num_repeated = 0
        self.started_ns = array("q", bytes(8 * num_jobs))

    def begin(self, n: int) -> None:
        """Take note that the n-th job was begun; all that a job does."""
        if self.started_ns[n]:
            self.num_repeated += 1
        self.started_ns[n] = time.monotonic_ns()

    def complete(self, num_jobs: int = 1) -> None:
        """Take note of jobs whose completion is in the table for good."""
        self.num_completed += num_jobs
        if self.num_completed == self.num_jobs:
            self.finished_ns = time.monotonic_ns()
            self._end.set()

    def stop(self) -> None:
        """Have the work end, complete or not."""
        self._end.set()

    async def wait_end(self) -> None:
        """Return when all jobs are completed, or it was told to stop."""
        await self._end.wait()
