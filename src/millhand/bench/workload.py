"""The no-op job of the benchmarks, and the record of when each one ran."""

from __future__ import annotations

import asyncio
import time
from array import array
from typing import ClassVar

import msgspec


class Noop(msgspec.Struct, frozen=True):
    """The args of a job that only records its start."""

    kind: ClassVar[str] = "noop"

    n: int


class Tally:
    """When each job started and the last one was durably completed, in ns of the monotonic clock; 0 means never."""

    __slots__ = ("_end", "finished_ns", "num_completed", "num_jobs", "num_repeated", "started_ns")

    def __init__(self, num_jobs: int) -> None:
        self._end = asyncio.Event()
        self.finished_ns = 0
        self.num_completed = 0
        self.num_jobs = num_jobs
        self.num_repeated = 0
        self.started_ns = array("q", bytes(8 * num_jobs))

    def begin(self, n: int) -> None:
        if self.started_ns[n]:
            self.num_repeated += 1
        self.started_ns[n] = time.monotonic_ns()

    def complete(self, num_jobs: int = 1) -> None:
        self.num_completed += num_jobs
        if self.num_completed == self.num_jobs:
            self.finished_ns = time.monotonic_ns()
            self._end.set()

    def stop(self) -> None:
        self._end.set()

    async def wait_end(self, timeout_seconds: float | None = None) -> None:
        """Return once all jobs are completed or `stop` was called. Raises: TimeoutError."""
        async with asyncio.timeout(timeout_seconds):
            await self._end.wait()
