"""What the workers of this release and of the last one share: jobs, the periodic job, and a clock that can be wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from chaos_journal import Journal
from chaos_plan import THREAD_KIND
from chaos_worker import ChaosWorker

from millhand.core.clock import SystemClock
from millhand.core.periodic import PeriodicJob
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.worker import NO_TIMEOUT, Workers
from millhand.core.worker_job import Job

MAX_WORKERS = 20  # of each queue
RETRY = timedelta(milliseconds=50)
TICK_SECONDS = 5
TICK_ID = "chaos_tick"


@dataclass(frozen=True)
class Tick:
    """The args of the periodic job; it has none."""

    kind: ClassVar[str] = TICK_ID


class EveryTick:
    """Due when the seconds since 1970 are a multiple of `TICK_SECONDS`, whichever client leads."""

    def next(self, after: datetime) -> datetime:
        number = int(after.timestamp() // TICK_SECONDS) + 1
        return datetime.fromtimestamp(number * TICK_SECONDS, UTC)


class SteppedClock(SystemClock):
    """The machine's clock plus the seconds in a file."""

    __slots__ = ("_file",)

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY)

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=float(os.pread(self._file, 32, 0) or 0))


PERIODIC_JOB = PeriodicJob(schedule=EveryTick(), args=Tick(), id=TICK_ID)


def chaos_workers(journal: Path, kinds: Collection[str], *, notes_stored: bool) -> Workers:
    """Return the functions of planned jobs and of the periodic job."""
    worker = ChaosWorker(Journal(journal, time.monotonic, is_synced=True), RETRY, notes_stored=notes_stored)
    workers = Workers()
    for kind in kinds:
        work = worker.work_in_thread if kind == THREAD_KIND else worker.work_on_loop
        workers.add(kind=kind, retry=ConstantRetryPolicy(RETRY), timeout=NO_TIMEOUT)(work)

    @workers.add()
    async def tick(job: Job[Tick]) -> None:
        """Do nothing; the insert is what counts."""

    return workers
