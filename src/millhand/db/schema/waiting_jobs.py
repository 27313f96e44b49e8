"""Keep jobs that wait for limits or for other jobs: without the tables of limits and flows, nothing makes them available."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from millhand.core.errors import MigrationError
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query

# The versions of line millhand that add limits and flows.
LIMITS_VERSION = 10
FLOWS_VERSION = 12
# The error of the SQL that undoes such a version while jobs wait.
JOBS_WAIT = "MH001"
REMEDIES = {
    # The leader makes them available, within seconds.
    LIMITS_VERSION: "while a worker runs, make them available with `millhand limit remove QUEUE`, and run it again",
    FLOWS_VERSION: "let their flows end, or cancel them with `millhand flow cancel ID`, and run it again",
}
# Millions of jobs may wait.
COUNT_SECONDS = 600.0
NUM_FLOWS_NAMED = 5


class WaitingJobs(msgspec.Struct, frozen=True):
    """How many jobs wait for the limit of a queue."""

    queue: str
    num_jobs: int


class WaitingFlow(msgspec.Struct, frozen=True):
    """How many jobs of a flow wait for others, and how many flows have such jobs."""

    id: int
    name: str
    num_jobs: int
    num_flows: int


async def require_no_waiting_jobs(executor: Executor, schema: str) -> None:
    """
    Check before the tables of limits are dropped that no job waits. `schema` is for the remedy; empty for the search path's.

    Concurrency: a job may come after the check. The SQL of the step checks it again, under a lock.
    Raises: MigrationError.
    """
    found = await executor.run(waiting_jobs())
    if not found:
        return
    counts = " and ".join(f"{one.num_jobs:,} in queue {one.queue!r}" for one in found)
    commands = _commands([f"limit remove {one.queue}" for one in found], schema)
    raise MigrationError(
        f"no job may wait for a limit when line 'millhand' goes below version {LIMITS_VERSION}, got {counts}; "
        f"while a worker runs, make them available: {commands}"
    )


async def require_no_waiting_flows(executor: Executor, schema: str) -> None:
    """
    Check before the tables of flows are dropped that no job waits for others. `schema` is for the remedy.

    Concurrency: as `require_no_waiting_jobs`. Raises: MigrationError, which names the first flows.
    """
    found = await executor.run(waiting_flows(limit=NUM_FLOWS_NAMED))
    if not found:
        return
    counts = [f"{one.num_jobs:,} in flow {one.id} {one.name!r}" for one in found]
    if num_more := found[0].num_flows - len(found):
        counts.append(f"more in {num_more:,} other flow{'' if num_more == 1 else 's'}")
    commands = _commands([f"flow cancel {one.id}" for one in found], schema)
    raise MigrationError(
        f"no job may wait for other jobs when line 'millhand' goes below version {FLOWS_VERSION}, got "
        f"{' and '.join(counts)}; let the flows end, or cancel them: {commands}"
    )


def waiting_flows(*, limit: int) -> Query[list[WaitingFlow]]:
    """Count the jobs that wait for other jobs. Shape: one for each of the first `limit` flows with such jobs, by id."""
    return Query(
        "migration_get_waiting_flows",
        {"limit": limit},
        lambda rows: [WaitingFlow(*row) for row in rows],
        COUNT_SECONDS,
    )


def waiting_jobs() -> Query[list[WaitingJobs]]:
    """Count the jobs that wait for limits. Shape: one for each queue with such jobs, by queue."""
    return Query(
        "migration_get_waiting_jobs", {}, lambda rows: [WaitingJobs(*row) for row in rows], COUNT_SECONDS
    )


def _commands(commands: Sequence[str], schema: str) -> str:
    """Return commands to run in a schema. They have no option for it, so it is in their environment."""
    environment = f"MILLHAND_DATABASE_SCHEMA={schema} " if schema else ""
    return "; ".join(f"{environment}millhand {command}" for command in commands)
