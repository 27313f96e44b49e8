"""
Counts tasks of flows that ended elsewhere, and goes on with what clients left.

    every second   count tasks whose jobs other programs ended or deleted; decide tasks whose jobs were locked; cancel the
                   rest of cancelled flows
    every hour     delete flows that ended long ago

Rule 1: without flows that run, a pass looks for them once a minute, and when one is inserted.
Rule 2: the jobs that ended in the last seconds are looked at in each pass, and all tasks of flows that run in turn. So
        what a transaction committed late is found too.
Rule 3: each change is a transaction of its own that locks its flows (`flows/resolver.py`). It skips a flow that
        another transaction has locked, so that other flows do not wait for it. A later pass finds what is left.
Rule 4: a release of many tasks takes minutes. A stop cancels it, and a later pass of another leader does it.
Rule 5: a change that the database refuses, as for a user's trigger, is logged and left out for a while. It blocks no other
        flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from millhand.core.clock import Clock
from millhand.core.errors import DriverError
from millhand.core.job import JobId
from millhand.core.log.logger import logger_of
from millhand.core.sqlstate import UNUSABLE
from millhand.db.driver.protocol import Executor
from millhand.engine.error_text import error_fields
from millhand.engine.maintenance.batch import Refused, write_allowed
from millhand.engine.service import IntervalService, Stopped
from millhand.flows.resolver import cancel_jobs, count_ended_elsewhere, release_unlocked
from millhand.flows.store import (
    flow_delete_ended,
    flow_get_cancelled,
    flow_task_get_ended,
    flow_task_get_recently_ended,
)

logger = logger_of(__name__)

PASS_SECONDS = 1.0
IDLE_SECONDS = 60.0
# A pass rests this many times as long as it took.
REST_SHARE = 10.0
WALK_SIZE = 5_000
RECENT_SIZE = 5_000
# Longer than a pass takes and most transactions are open.
RECENTLY = timedelta(seconds=5)
DELETE_SECONDS = 3_600.0
DELETE_SIZE = 100
# As long as River keeps discarded jobs.
FLOW_KEPT = timedelta(days=7)
START = (0, 0)


class FlowMaintainer(IntervalService):
    """Maintains flows as the leader of role `periodic`."""

    interval_seconds = PASS_SECONDS

    def __init__(self, pool: Executor, *, clock: Clock) -> None:
        super().__init__()
        self._after: tuple[int, int] = START
        self._clock = clock
        self._delete_at = 0.0
        self._pause_seconds = IDLE_SECONDS
        self._pool = pool
        self._refused_flows = Refused(clock)
        self._refused_jobs = Refused(clock)

    def next_pause_seconds(self) -> float:
        return self._pause_seconds

    async def run_once(self) -> None:
        began = self._clock.monotonic()
        self._pause_seconds = IDLE_SECONDS
        try:
            has_flows = await self.unless_stopped(self._maintain())
            await self.unless_stopped(self._delete(began))
        except Stopped:
            return
        except DriverError as error:
            if error.sqlstate in UNUSABLE:
                return
            raise
        if has_flows:
            self._pause_seconds = max(PASS_SECONDS, REST_SHARE * (self._clock.monotonic() - began))
        self.probe("maintained", has_flows)

    async def _maintain(self) -> bool:
        """Look at a part of the tasks, and return whether there may be flows that run."""
        walk = await self._pool.run(flow_task_get_ended(self._after, limit=WALK_SIZE))
        is_first = self._after == START
        # After the last task, the next pass starts from the first.
        self._after = walk.last if walk.num_walked == WALK_SIZE else START
        if not walk.num_walked:
            return not is_first
        recent = await self._pool.run(flow_task_get_recently_ended(within=RECENTLY, limit=RECENT_SIZE))
        ends = {**recent, **walk.ends}
        await write_allowed(self._refused_jobs.without(ends), self._count, self._log_job_refused)
        for flow_id in self._refused_flows.without(walk.due):
            release = partial(self._release, walk.due[flow_id])
            await write_allowed([flow_id], release, self._log_flow_refused)
        cancelled = await self._pool.run(flow_get_cancelled())
        for flow_id in self._refused_flows.without(cancelled):
            await write_allowed([flow_id], self._cancel, self._log_flow_refused)
        return True

    async def _count(self, job_ids: Sequence[JobId]) -> None:
        async with self._pool.begin() as tx:
            await count_ended_elsewhere(tx, job_ids)

    async def _release(self, join_ids: Sequence[int], flow_ids: Sequence[int]) -> None:
        [flow_id] = flow_ids
        async with self._pool.begin() as tx:
            await release_unlocked(tx, flow_id, join_ids)

    async def _cancel(self, flow_ids: Sequence[int]) -> None:
        [flow_id] = flow_ids
        await cancel_jobs(self._pool, flow_id, waits=False)

    def _log_job_refused(self, id: JobId, error: DriverError) -> None:
        self._refused_jobs.add(id)
        logger.error("flow not continued", extra={"job_id": id, **error_fields(error)})

    def _log_flow_refused(self, id: int, error: DriverError) -> None:
        self._refused_flows.add(id)
        logger.error("flow not continued", extra={"flow_id": id, **error_fields(error)})

    async def _delete(self, now: float) -> None:
        if now < self._delete_at:
            return
        horizon = self._clock.now() - FLOW_KEPT
        while await self._pool.run(flow_delete_ended(horizon=horizon, limit=DELETE_SIZE)) == DELETE_SIZE:
            pass
        self._delete_at = now + DELETE_SECONDS
