"""A flow of a test: its statements as two clients, the leader and other programs send them, and what its tables hold."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from client_harness import Act
from factory import qualified
from flow_counts import MISCOUNTED
from millhand.core.clock import SystemClock
from millhand.core.config import Config
from millhand.core.event import EventKind
from millhand.core.job import ClientId, JobId, JobRow, JobState
from millhand.core.transition import StateChange, last_attempted_by
from millhand.db.driver.protocol import Driver, Executor
from millhand.db.query import Query
from millhand.engine.end_writer import EndsOf, Wanted, ends_of_completed, ends_of_rows, run_and_write
from millhand.engine.inserter import Inserter
from millhand.engine.store.job import (
    job_complete_many,
    job_get_available,
    job_get_by_ids,
    job_set_state_if_running_many,
)
from millhand.flows.control import FlowControl
from millhand.flows.flow import Flow, FlowRow, FlowTask, When
from millhand.flows.inserter import insert_flow
from millhand.flows.job_flow import FlowOfJob
from millhand.flows.maintainer import FlowMaintainer
from millhand.flows.resolver import TaskEnds
from millhand.flows.store import flow_get

T = TypeVar("T")

CLIENT = ClientId("client_a")
QUEUE = "default"
HOUR = timedelta(hours=1)

STATES = """
SELECT
    task.state,
    coalesce(job.state::text, 'deleted') AS job_state
FROM /* schema */millhand_flow_task AS task
LEFT JOIN /* schema */river_job AS job ON task.job_id = job.id
ORDER BY task.job_id
"""


@dataclass(frozen=True)
class Node:
    """A task of a graph, or `size` tasks that are added together. `parents` are the places of nodes before it."""

    parents: frozenset[int] = frozenset()
    when: When = "completed"
    size: int | None = None


@dataclass(frozen=True)
class OnePool:
    """A driver that has a pool and nothing else."""

    pool: Executor


def flow_of(nodes: Sequence[Node], name: str = "graph") -> Flow:
    """Return a flow of these nodes, with the number of each task as its args."""
    flow, handles = Flow(name), list[FlowTask]()
    number = 0
    for node in nodes:
        after = [handles[place] for place in sorted(node.parents)]
        size = 1 if node.size is None else node.size
        jobs = [Act(str(one)) for one in range(number, number + size)]
        number += size
        when: When = node.when if after else "completed"
        if node.size is None:
            handles.append(flow.add(jobs[0], after=after, when=when))
        else:
            handles.append(flow.add_many(jobs, after=after, when=when))
    return flow


async def run_and_count(
    pool: Executor,
    query: Query[T],
    jobs: Sequence[JobRow],
    ends_of: EndsOf[T],
    seconds_left: float = math.inf,
) -> T:
    """Run a statement that ends jobs which are tasks, and count those, as a completer does."""
    wanted = [Wanted(TaskEnds(), [job.id for job in jobs])]
    return await run_and_write(pool, query, wanted, ends_of, lambda: seconds_left)


class FlowWorld:
    """A schema with flows. The statements run on `pool`; `QUEUE` has their jobs alone."""

    def __init__(self, pool: Executor) -> None:
        self.inserter = Inserter(pool, Config())
        self.control = FlowControl(cast("Driver", OnePool(pool)), self.inserter)
        self.maintainer = FlowMaintainer(pool, clock=SystemClock())
        self.pool = pool

    async def insert(self, nodes: Sequence[Node]) -> FlowRow:
        return await insert_flow(flow_of(nodes), self.inserter, self.pool)

    async def fetch(self, limit: int = 100, client: ClientId = CLIENT) -> list[JobRow]:
        return await self.pool.run(job_get_available(queue=QUEUE, limit=limit, client_id=client))

    async def complete(self, jobs: Sequence[JobRow], pool: Executor | None = None) -> list[JobId]:
        """Write plain successes as a completer does."""
        query = job_complete_many(
            client_id=ClientId(last_attempted_by(jobs[0]) or ""),
            ids=[job.id for job in jobs],
            attempted_ats=[cast("datetime", job.attempted_at) for job in jobs],
            finalized_ats=[datetime.now(UTC)] * len(jobs),
        )
        return await run_and_count(pool or self.pool, query, jobs, ends_of_completed)

    async def end(
        self,
        jobs: Sequence[JobRow],
        state: JobState,
        *,
        pool: Executor | None = None,
        is_counted: bool = True,
    ) -> list[JobRow]:
        """Write the same outcome for attempts, as a completer does; after a failure, it does not count them."""
        now = datetime.now(UTC)
        changes = [
            StateChange(
                id=job.id,
                state=state,
                event_kind=EventKind.JOB_FAILED,
                attempted_at=job.attempted_at,
                attempted_by=last_attempted_by(job),
                finalized_at=now if state.is_finalized else None,
                scheduled_at=None if state.is_finalized else now - HOUR,
            )
            for job in jobs
        ]
        query = job_set_state_if_running_many(changes)
        if not is_counted:
            return await (pool or self.pool).run(query)
        return await run_and_count(pool or self.pool, query, jobs, ends_of_rows)

    async def add(self, job: JobRow, num: int) -> list[JobId]:
        """Add tasks as a running job does whose earlier attempts have added all but the last of them."""
        flow = FlowOfJob(job, self.inserter, self.pool, asyncio.get_running_loop, lambda: None)
        return await flow.add_many([Act("added")] * num)

    async def maintain(self, num_passes: int = 2) -> None:
        """Let the leader look at tasks. Two passes look at all of a small flow, wherever the last one ended."""
        for _ in range(num_passes):
            await self.maintainer.run_once()

    async def row(self, id: int) -> FlowRow:
        return await self.pool.run(flow_get(id))

    async def states(self) -> list[tuple[str, str]]:
        """Return the states of all tasks and of their jobs, by job."""
        rows = await self.pool.fetch(qualified(STATES, self.pool))
        return [(row["state"], row["job_state"]) for row in rows]

    async def task_states(self) -> list[str]:
        """Return the states of all tasks, by job."""
        return [state for state, _ in await self.states()]

    async def job_ids(self) -> list[JobId]:
        sql = "SELECT job_id FROM /* schema */millhand_flow_task ORDER BY job_id"
        rows = await self.pool.fetch(qualified(sql, self.pool))
        return [JobId(row["job_id"]) for row in rows]

    async def rows(self, ids: Sequence[JobId]) -> list[JobRow]:
        return await self.pool.run(job_get_by_ids(ids))

    async def check(self) -> None:
        """Assert that flows and joins count what a recount finds."""
        assert await miscounted(self.pool) == []


async def miscounted(pool: Executor) -> list[Any]:
    """Return the flows and joins whose counts are not those of their tasks."""
    return list(await pool.fetch(qualified(MISCOUNTED, pool)))
