"""
The jobs and settings of a chaos run's workers: `millhand worker chaos_app:config`.

The environment names a journal and a clock for each process. The processes are killed, frozen and disconnected.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from chaos_flows import KIND as FLOW_KIND
from chaos_journal import Journal
from chaos_limits import DELETED, LIMITS
from chaos_plan import KINDS, QUEUES, THREAD_KIND
from chaos_schedules import KIND, SCHEDULES
from chaos_worker import ChaosWorker

from millhand.clock import SystemClock
from millhand.config import Config, QueueConfig
from millhand.job import Job
from millhand.periodic import PeriodicJob
from millhand.retry import ConstantRetryPolicy
from millhand.worker import NO_TIMEOUT, Workers

MAX_WORKERS = 20  # of each queue
RETRY = timedelta(milliseconds=50)
TICK_SECONDS = 5
TICK_ID = "chaos_tick"
NOOP_KIND = "chaos_noop"  # worked without a journal, to measure the rate


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


def chaos_config(journal: Path, clock: Path, *, has_limits: bool, has_schedules: bool) -> Config:
    """Return the settings of each worker of the run."""
    worker = ChaosWorker(Journal(journal, time.monotonic, is_synced=True), RETRY)
    workers = Workers()
    for kind in (*KINDS, FLOW_KIND):
        work = worker.work_in_thread if kind == THREAD_KIND else worker.work_on_loop
        workers.add(kind=kind, retry=ConstantRetryPolicy(RETRY), timeout=NO_TIMEOUT)(work)

    @workers.add()
    async def tick(job: Job[Tick]) -> None:
        """Do nothing; the insert is what counts."""

    @workers.add(kind=KIND)
    async def scheduled() -> None:
        """Do nothing; the insert is what counts."""

    @workers.add(kind=NOOP_KIND)
    async def noop() -> None:
        """Do nothing, and write no journal."""

    return Config(
        clock=SteppedClock(clock),
        periodic_jobs=[PeriodicJob(schedule=EveryTick(), args=Tick(), id=TICK_ID)],
        heartbeat_interval=None,
        schedules=SCHEDULES if has_schedules else (),
        queues={**dict.fromkeys(QUEUES, MAX_WORKERS), **(limited_queues() if has_limits else {})},
        workers=workers,
    )


def limited_queues() -> dict[str, QueueConfig]:
    """Return the queues with limits; one deletes its completed jobs in all workers."""
    return {
        queue: QueueConfig(
            max_workers=MAX_WORKERS, keep_completed=False if queue == DELETED else None, limit=limit
        )
        for queue, limit in LIMITS.items()
    }


def config() -> Config:
    """Return the settings of this process."""
    return chaos_config(
        Path(os.environ["CHAOS_JOURNAL"]),
        Path(os.environ["CHAOS_CLOCK"]),
        has_limits=os.environ.get("CHAOS_LIMITS") == "true",
        has_schedules=os.environ.get("CHAOS_SCHEDULES") == "true",
    )
