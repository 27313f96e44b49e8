"""
Counts tasks of flows that have ended, and releases or cancels the tasks that wait for them.

Rule 1: what changes the tasks of flows locks the flows first, in the order of their ids, and then waits for no job. So a
        client that holds jobs and waits for a flow is never waited for.
Rule 2: a task is counted once: by the statement that changes its state from waiting or released. The joins are counted by
        the same statement, under the lock, so exactly one count reaches zero.
Rule 3: a client that ends jobs counts them in the transaction that ends them. Tasks that others end, and those whose jobs
        were locked, are found by the leader.
Rule 4: a task whose job is cancelled by this is counted next. No graph has a circle, so that ends; after `LEVELS_MAX`
        levels, the leader goes on.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from millhand.core.errors import DriverError
from millhand.core.job import JobId, JobState
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.db.query import TIMEOUT_SECONDS, Query
from millhand.engine.end_writer import Ends, SecondsLeft
from millhand.engine.error_text import error_fields
from millhand.engine.pending_change import Pending
from millhand.flows.flow import FLOW_ID_KEY, TaskState, is_task
from millhand.flows.store import (
    flow_cancel_jobs,
    flow_count_ended,
    flow_lock,
    flow_lock_of_jobs,
    flow_lock_unlocked,
    flow_release,
    flow_task_get_ends,
)

logger = logger_of(__name__)

T = TypeVar("T")

# A transaction holds the flow's lock, so it is bounded: a level is two statements.
LEVELS_MAX = 100
CANCEL_SIZE = 5_000
# How long a client that ends jobs waits for the lock of a flow: its other jobs wait meanwhile.
LOCK_SECONDS = 1.0
# How long its count takes at most, with all levels. The leader counts what takes longer.
COUNT_SECONDS = TIMEOUT_SECONDS


class TaskEnds:
    """Counts the tasks among the jobs that a client ends, in the transaction that ends them."""

    def ids_of(self, batch: Sequence[Pending]) -> list[JobId]:
        """Return those jobs that are tasks of flows."""
        return [
            one.change.id
            for one in batch
            if FLOW_ID_KEY in one.attempt.row.metadata and is_task(one.attempt.row.metadata)
        ]

    async def write(self, tx: Executor, ends: Ends, seconds_left: SecondsLeft) -> None:
        """
        Count tasks that have ended.

        It waits for `LOCK_SECONDS` for a flow that another transaction has locked, and takes `COUNT_SECONDS` at most, and no
        longer than `seconds_left`. What is refused or takes longer, the leader counts.
        """
        now = asyncio.get_running_loop().time
        until = now() + COUNT_SECONDS
        states = {
            id: TaskState.COMPLETED if state is JobState.COMPLETED else TaskState.FAILED
            for id, state in ends.items()
        }
        await count_ended(
            tx,
            states,
            lock_seconds=LOCK_SECONDS,
            seconds_left=lambda: max(min(until - now(), seconds_left()), 0.0),
        )

    def on_refused(self, num_jobs: int, error: DriverError) -> None:
        """Log that the leader must count them."""
        logger.warning("flow tasks not counted", extra={"num_jobs": num_jobs, **error_fields(error)})


async def count_ended(
    tx: Executor,
    ends: Mapping[JobId, TaskState],
    *,
    limits_idle: bool = True,
    lock_seconds: float | None = None,
    seconds_left: SecondsLeft = lambda: math.inf,
) -> None:
    """
    Count tasks that have ended, and decide those that wait for them. Jobs that are no tasks are left out.

    Concurrency: safe to race; it locks the flows until the end of the transaction.
    Raises: DriverError if it waits for a flow for longer than `lock_seconds`; OperationTimeout when no `seconds_left`.
    """
    for _ in range(LEVELS_MAX):
        count = flow_count_ended(ends, limits_idle=limits_idle, lock_seconds=lock_seconds)
        join_ids = await tx.run(_at_most(count, seconds_left()))
        cancelled = await tx.run(_at_most(flow_release(join_ids), seconds_left())) if join_ids else {}
        if not cancelled:
            return
        ends = cancelled


async def count_ended_elsewhere(tx: Executor, job_ids: Collection[JobId]) -> None:
    """
    Count those tasks whose jobs have ended, as they are once the flows are locked: a flow may have been retried meanwhile.

    Concurrency: as `count_ended`, but it skips flows that another transaction has locked. A later call counts their tasks.
    """
    flow_ids = await tx.run(flow_lock_of_jobs(job_ids))
    ends = await tx.run(flow_task_get_ends(job_ids, flow_ids)) if flow_ids else {}
    if ends:
        await count_ended(tx, ends)


async def release(tx: Executor, join_ids: Sequence[int]) -> None:
    """Decide the waiting tasks of joins of locked flows."""
    if join_ids and (ends := await tx.run(flow_release(join_ids))):
        await count_ended(tx, ends)


async def release_new(tx: Executor, join_ids: Sequence[int]) -> None:
    """
    Decide the waiting tasks of joins of a flow that this transaction has inserted.

    It may be a caller's transaction, and no other waits for the flow, so it may stay idle for as long as before.
    """
    if join_ids and (ends := await tx.run(flow_release(join_ids))):
        await count_ended(tx, ends, limits_idle=False)


async def release_unlocked(tx: Executor, flow_id: int, join_ids: Sequence[int]) -> None:
    """Decide the waiting tasks of joins of a flow, unless another transaction has locked it: then a later call does."""
    if await tx.run(flow_lock_unlocked(flow_id)):
        await release(tx, join_ids)


async def cancel_jobs(pool: Executor, flow_id: int, *, waits: bool = True) -> None:
    """
    Cancel the jobs of a cancelled flow that have not ended, in batches, each a transaction. A retry of the flow ends that.

    Those that another transaction has locked are left, and running ones are asked to end. Without `waits`, a flow that
    another transaction has locked is left, too.
    """
    after_job_id = 0
    while True:
        async with pool.begin() as tx:
            if not waits and not await tx.run(flow_lock_unlocked(flow_id)):
                return
            if (await tx.run(flow_lock(flow_id))).cancelled_at is None:
                return
            cancelled = await tx.run(flow_cancel_jobs(flow_id, after_job_id=after_job_id, limit=CANCEL_SIZE))
            if cancelled.job_ids:
                await count_ended(tx, dict.fromkeys(cancelled.job_ids, TaskState.FAILED))
        if cancelled.num_open < CANCEL_SIZE or cancelled.last_job_id is None:
            return
        after_job_id = cancelled.last_job_id


def _at_most(query: Query[T], seconds: float) -> Query[T]:
    return query.within(min(query.timeout_seconds, seconds))
