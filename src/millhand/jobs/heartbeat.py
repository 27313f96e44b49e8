"""
The heartbeat: a periodic job that checks the whole path of a job, from insert to completion, and logs the result.

The leader inserts it, and a client fetches, executes and completes it like any other job. If the log has no line for
longer than the interval, some part of this path has stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand.insert_opts import InsertOpts
from millhand.job import Job, JobState
from millhand.log.logger import logger_of
from millhand.periodic import PeriodicJob, every
from millhand.unique import UniqueOpts
from millhand.worker import Workers

logger = logger_of(__name__)

INTERVAL = timedelta(seconds=60)
TIMEOUT = timedelta(seconds=10)
UNFINISHED = (JobState.AVAILABLE, JobState.PENDING, JobState.RUNNING, JobState.SCHEDULED)

# Heartbeats are unique, so that only one waits while no client works their queue. But if a worker is killed during a
# heartbeat, the job holds its key until it is rescued, up to an hour later. The period of the key is therefore ten
# intervals, and the heartbeat pauses for no longer.
UNIQUE_INTERVALS = 10


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The args of the heartbeat; it has none."""

    kind: ClassVar[str] = "heartbeat"


def add_heartbeat(workers: Workers, *, interval: timedelta = INTERVAL, queue: str = "default") -> PeriodicJob:
    """
    Register the heartbeat's worker and return its periodic job, which also runs when a client becomes leader.

    The job is attempted once: the next one follows anyway, and a failure should be visible.

    Raises: ConfigError if the interval is invalid, or a worker of kind `heartbeat` is registered already.
    """
    workers.add(timeout=TIMEOUT)(log_heartbeat)
    period = max(interval * UNIQUE_INTERVALS, timedelta(seconds=1))
    opts = InsertOpts(
        max_attempts=1, queue=queue, unique=UniqueOpts(by_period=period, by_queue=True, by_state=UNFINISHED)
    )
    return every(interval, Heartbeat(), id="heartbeat", opts=opts, run_on_start=True)


async def log_heartbeat(job: Job[Heartbeat]) -> None:
    """Log the database's response time and the numbers of running and available jobs."""
    client = job.client
    database_seconds = await client.ping()
    counts = await client.jobs.count_by_state([JobState.AVAILABLE])
    logger.info(
        "worker heartbeat",
        extra={
            "client_id": client.id,
            "job_id": job.id,
            "attempt": job.attempt,
            "leader": client.is_leader,
            "database_ms": round(database_seconds * 1_000, 1),
            "running": client.num_running,
            "available": counts[JobState.AVAILABLE],
        },
    )
