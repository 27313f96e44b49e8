"""
The heartbeat: a periodic job that checks the whole path of a job, from insert to completion, and logs the result.

The leader inserts it, and a client fetches, executes and completes it like any other job. If the log has no line for
longer than the interval, some part of this path has stopped. Each client with queues has it, unless
`Config.heartbeat_interval` is None. Its first one comes after an interval, so that a test or a short program that waits for
events meets none; `millhand worker` also has one at the start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import ClassVar

from millhand.core.config import Config, built_in_queue
from millhand.core.errors import ConfigError
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.log.logger import logger_of
from millhand.core.periodic import PeriodicJob, every
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job

logger = logger_of(__name__)

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


def with_heartbeat(config: Config, *, run_on_start: bool = False) -> Config:
    """
    Return the configuration of a client that works jobs with the heartbeat as one of its periodic jobs.

    Its worker is registered in a copy of `config.workers`; a client that may not lead gets only that. `run_on_start` adds a
    run when the client becomes leader. Raises: ConfigError if the kind or id `heartbeat` is used already.
    """
    if config.heartbeat_interval is None:
        return config
    workers = config.workers.copy()
    register_heartbeat(workers)
    job = heartbeat(config.heartbeat_interval, built_in_queue(config.queues), run_on_start=run_on_start)
    periodic_jobs = [*config.periodic_jobs, job] if config.leader_election else ()
    return replace(config, heartbeat_interval=None, periodic_jobs=periodic_jobs, workers=workers)


def register_heartbeat(workers: Workers) -> None:
    """Register the heartbeat's worker; idempotent. Raises: ConfigError for another worker of its kind."""
    found = workers.get(Heartbeat.kind)
    if found is None:
        workers.add(timeout=TIMEOUT)(log_heartbeat)
    elif found.call is not log_heartbeat:
        raise ConfigError(
            f"kind {Heartbeat.kind!r} must be registered once, got worker {found.name} and the built-in job; "
            "rename yours, or set heartbeat_interval=None"
        )


def heartbeat(interval: timedelta, queue: str, *, run_on_start: bool) -> PeriodicJob:
    """
    Return the periodic job.

    The job is attempted once: the next one follows anyway, and a failure should be visible.
    """
    period = max(interval * UNIQUE_INTERVALS, timedelta(seconds=1))
    opts = InsertOpts(
        max_attempts=1, queue=queue, unique=UniqueOpts(by_period=period, by_queue=True, by_state=UNFINISHED)
    )
    return every(interval, Heartbeat(), id="heartbeat", opts=opts, run_on_start=run_on_start)


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
