"""Keep jobs that wait for limits: without the tables of limits, nothing makes them available."""

from __future__ import annotations

import msgspec

from millhand.driver.protocol import Executor
from millhand.errors import MigrationError
from millhand.store.query import Query

# The version of line millhand that adds limits.
LIMITS_VERSION = 10
# The error of its SQL that undoes it while jobs wait.
JOBS_WAIT = "MH001"
# The leader makes them available, within seconds.
REMEDY = "while a worker runs, make them available with `millhand limit remove QUEUE`, and run it again"
# Millions of jobs may wait.
COUNT_SECONDS = 600.0


class WaitingJobs(msgspec.Struct, frozen=True):
    """How many jobs wait for the limit of a queue."""

    queue: str
    num_jobs: int


async def require_no_waiting_jobs(executor: Executor, option: str) -> None:
    """
    Check before the tables of limits are dropped that no job waits. `option` is that of the schema, for the remedy.

    Concurrency: a job may come after the check. The SQL of the step checks it again, under a lock.
    Raises: MigrationError.
    """
    found = await executor.run(waiting_jobs())
    if not found:
        return
    counts = " and ".join(f"{one.num_jobs:,} in queue {one.queue!r}" for one in found)
    commands = "; ".join(f"millhand limit remove {one.queue}{option}" for one in found)
    raise MigrationError(
        f"no job may wait for a limit when line 'millhand' goes below version {LIMITS_VERSION}, got {counts}; "
        f"while a worker runs, make them available: {commands}"
    )


def waiting_jobs() -> Query[list[WaitingJobs]]:
    """Count the jobs that wait for limits. Shape: one for each queue with such jobs, by queue."""
    return Query(
        "migration_get_waiting_jobs", {}, lambda rows: [WaitingJobs(*row) for row in rows], COUNT_SECONDS
    )
