"""
Counts tasks of flows that have ended, and releases or cancels the tasks that wait for them.

Rule 1: whoever changes the tasks of flows locks the flows first, in the order of their ids, and then waits for no job. So a
        client that holds jobs and waits for a flow is never waited for.
Rule 2: a task is counted once: by the statement that changes its state from waiting or released. The joins are counted by
        the same statement, under the lock, so exactly one count reaches zero.
Rule 3: a client that ends jobs counts them in the transaction that ends them. Tasks that others end, and those whose jobs
        were locked, are found by the leader.
Rule 4: a task whose job is cancelled by this is counted next. No graph has a circle, so that ends; after `LEVELS_MAX`
        levels, the leader goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from millhand.driver.protocol import Executor
from millhand.flow import TaskState
from millhand.job import JobId, JobState
from millhand.store.flow import flow_count_ended, flow_lock_of_jobs, flow_release

# A transaction holds the flow's lock, so it is bounded: a level is two statements.
LEVELS_MAX = 100


def end_of(state: JobState) -> TaskState:
    """Return how a task ends whose job was finalized as `state`."""
    return TaskState.COMPLETED if state is JobState.COMPLETED else TaskState.FAILED


async def resolve(tx: Executor, ends: Mapping[JobId, TaskState]) -> None:
    """
    Count tasks that have ended, and decide those that wait for them. Jobs that are no tasks are left out.

    Concurrency: safe to race; it locks the flows until the end of the transaction.
    """
    tasks = await tx.run(flow_lock_of_jobs(sorted(ends)))
    if tasks:
        await count_ended(tx, {id: ends[id] for id in tasks})


async def count_ended(tx: Executor, ends: Mapping[JobId, TaskState]) -> None:
    """Count tasks of locked flows that have ended, and decide those that wait for them."""
    for _ in range(LEVELS_MAX):
        join_ids = await tx.run(flow_count_ended(ends))
        if not join_ids:
            return
        ends = await tx.run(flow_release(join_ids))
        if not ends:
            return


async def release(tx: Executor, join_ids: Sequence[int]) -> None:
    """Decide the waiting tasks of joins of locked flows, or of a flow that is not committed yet."""
    if join_ids and (ends := await tx.run(flow_release(join_ids))):
        await count_ended(tx, ends)
