"""
The jobs and settings of a chaos run's workers: `millhand worker chaos_app:config`.

The environment names a journal and a clock for each process. The processes are killed, frozen and disconnected.
"""

from __future__ import annotations

import os
from pathlib import Path

from chaos_base import MAX_WORKERS, PERIODIC_JOB, SteppedClock, chaos_workers
from chaos_flows import KIND as FLOW_KIND
from chaos_limits import DELETED, LIMITS
from chaos_plan import KINDS, QUEUES, RETRIED_KIND
from chaos_schedules import KIND, SCHEDULES

from millhand.core.config import Config, QueueConfig

NOOP_KIND = "chaos_noop"  # worked without a journal, to measure the rate


def chaos_config(
    journal: Path, clock: Path, *, has_limits: bool, has_schedules: bool, notes_stored: bool = False
) -> Config:
    """Return the settings of each worker of the run."""
    workers = chaos_workers(journal, (*KINDS, RETRIED_KIND, FLOW_KIND), notes_stored=notes_stored)

    @workers.add(kind=KIND)
    async def scheduled() -> None:
        """Do nothing; the insert is what counts."""

    @workers.add(kind=NOOP_KIND)
    async def noop() -> None:
        """Do nothing, and write no journal."""

    return Config(
        clock=SteppedClock(clock),
        periodic_jobs=[PERIODIC_JOB],
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
        notes_stored=os.environ.get("CHAOS_STORED") == "true",
    )
