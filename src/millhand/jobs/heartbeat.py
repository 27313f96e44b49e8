"""
The heartbeat: a periodic job that proves the whole way alive, from insert to completion, and says so in the log.

It says more than a ping would: it is inserted by the leader, announced, fetched, executed and completed like any other.
No line for longer than its interval means that somewhere on this way something stands still.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand.insert_opts import InsertOpts
from millhand.job import Job, JobState
from millhand.periodic import PeriodicJob, every
from millhand.unique import UniqueOpts
from millhand.worker import Workers

logger = logging.getLogger(__name__)

INTERVAL = timedelta(seconds=60)
TIMEOUT = timedelta(seconds=10)
UNFINISHED = (JobState.AVAILABLE, JobState.PENDING, JobState.RUNNING, JobState.SCHEDULED)

# While nobody works their queue, heartbeats do not pile up: one waits, and is all that the next period needs. But a
# heartbeat whose worker was killed in the middle of it keeps its key until it is rescued, an hour later; so the key
# changes, and the heart stands still for ten beats at most.
UNIQUE_INTERVALS = 10


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The args of the heartbeat: there is nothing to be told."""

    kind: ClassVar[str] = "heartbeat"


def add_heartbeat(workers: Workers, *, interval: timedelta = INTERVAL, queue: str = "default") -> PeriodicJob:
    """
    Register the heartbeat's worker and return its periodic job, which also runs when a client becomes leader.

    It is attempted once: the next beat comes anyway, and one that failed should be seen.

    Raises: ConfigError for an interval that cannot be, or a kind `heartbeat` that is registered already.
    """
    workers.add(timeout=TIMEOUT)(beat)
    period = max(interval * UNIQUE_INTERVALS, timedelta(seconds=1))
    opts = InsertOpts(
        max_attempts=1, queue=queue, unique=UniqueOpts(by_period=period, by_queue=True, by_state=UNFINISHED)
    )
    return every(interval, Heartbeat(), id="heartbeat", opts=opts, run_on_start=True)


async def beat(job: Job[Heartbeat]) -> None:
    """Log that the worker is alive, how fast the database answers, and how much there is to do."""
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
