"""
Repairs what clients leave of limits when they are killed, and what other programs change.

    every second      release the slots of jobs that ended elsewhere; let jobs in order wait for their next attempt; in
                      queues that Go workers share, let all waiting jobs be pending, and admit some for these workers
    after a change    make the jobs of a removed limit available, and for an hour, each minute, those of transactions that
                      were open then; count the slots of limits with a total again, because statements that began before
                      the change did not count them; let jobs that waited before a limit was in order wait by id
    every minute      look at all pending jobs of a shared queue for those that Go clients inserted so; in other queues, if
                      there are Go clients, make waiting jobs available whose kind no Python client of the queue knows
    every 10 minutes  compare the counted slots with the jobs that have them
    every hour        delete partitions that were idle for a day

    soon              after an insert into a shared queue, a pass; after a change in one, also looks between passes for slots
                      that Go freed. Their pause is a share of the time since the change

Rule 1: without limits a pass runs no statement, except the first of a term and in the hour after a limit was removed.
Rule 2: what other programs did is seen here a second later at most. Until then a slot is taken, never given twice.
Rule 3: a difference between counts and jobs would be a fault: it is corrected and logged as an error.

`models/limits.tla` has these steps: ReleaseEnded, WaitAgain, Adopt, and the actions of a collect and an admission.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeVar

from millhand.core.clock import Clock
from millhand.core.errors import DriverError
from millhand.core.limit import QueueLimit
from millhand.core.log.logger import logger_of
from millhand.core.sqlstate import UNUSABLE
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.engine.fleet import load_fleet
from millhand.engine.maintenance.batch import STATEMENT_SECONDS
from millhand.engine.notifier import parse_payload
from millhand.engine.service import IntervalService, Stopped
from millhand.limits.job_store import (
    MAINTENANCE_BATCH_SIZE,
    limit_correct_totals,
    limit_lock_totals,
    limit_partition_correct,
    limit_partition_delete_idle,
    limit_partition_get_differing,
    limit_partition_lock,
    limited_job_admit_available,
    limited_job_adopt_newest,
    limited_job_adopt_pending,
    limited_job_begin_to_wait,
    limited_job_collect,
    limited_job_free,
    limited_job_get_unlimited,
    limited_job_leave,
    limited_job_order,
    limited_job_park,
    limited_job_release_ended,
    limited_job_wait_again,
)

logger = logger_of(__name__)

T = TypeVar("T")

PASS_SECONDS = 1.0
# While jobs of a shared queue end or are admitted.
BUSY_SECONDS = 0.1
# The pause between two looks is at least this, and this share of the time since the last change: River sends no notification
# when a job ends. From PASS_SECONDS on, passes are enough.
LOOK_SECONDS = 0.02
LOOK_SHARE = 0.125
# So many passes after a change count again: longer than a statement may take.
COUNT_PASSES = 15
# A pass rests this many times as long as it took.
REST_SHARE = 10.0
IDLE_SECONDS = 60.0
# So long after the removal of a limit, a transaction may commit jobs that wait for it, or unlock them.
SEARCH_SECONDS = 3_600.0
ADOPT_SECONDS = 60.0
LEAVE_SECONDS = 60.0
# A pass in between looks at so many jobs. Others were inserted in a long transaction, or faster than is usual.
NUM_NEWEST = 5_000
CORRECT_SECONDS = 600.0
DELETE_SECONDS = 3_600.0
PARTITION_KEPT = timedelta(days=1)
ADMIT_SIZE = 1_000
# PostgreSQL's codes for: no such table, no such column, no such schema, no privilege.


class LimitMaintainer(IntervalService):
    """Maintains the limits that `limits` returns, as the leader of role `periodic`."""

    interval_seconds = PASS_SECONDS

    def __init__(
        self, pool: Executor, *, clock: Clock, limits: Callable[[], Mapping[str, QueueLimit]]
    ) -> None:
        super().__init__()
        self._adopt_at = 0.0
        self._changed_at = -math.inf  # in a shared queue
        self._clock = clock
        self._correct_at = 0.0
        self._delete_at = 0.0
        self._in_order: frozenset[str] = frozenset()
        # The queues with limits at the last pass; None before the first.
        self._known: frozenset[str] | None = None
        self._is_scheduled = False  # whether `run` makes the next pass, and not a caller
        self._leave_at = 0.0
        self._limits = limits
        self._look_at = math.inf
        self._limits_counted: Mapping[str, QueueLimit] | None = None
        self._num_counts_left = 0
        self._num_orders_left = 0
        self._pass_at = 0.0
        self._pool = pool
        self._rest_until = 0.0  # of the last pass
        self._search_at = 0.0
        self._search_until = 0.0

    async def run(self, started: Callable[[], None]) -> None:
        self._known, self._is_scheduled = None, False
        await super().run(started)

    def next_pause_seconds(self) -> float:
        self._is_scheduled = True
        return max(min(self._pass_at, self._look_at) - self._clock.monotonic(), 0.0)

    def request_pass(self) -> None:
        """Make a pass soon, after a change of the limits."""
        self._pass_at = 0.0
        self.wake_event.set()

    def on_insert(self, payload: str) -> None:
        """Make a pass after the rest of the last one, if jobs came to a queue that Go workers share."""
        if not (self.is_running and (shared := self._shared(self._limits()))):
            return
        parsed = parse_payload(payload)
        if parsed is not None and parsed.get("queue") in shared:
            self._pass_at = min(self._pass_at, self._rest_until)
            self.wake_event.set()

    async def run_once(self) -> None:
        now = self._clock.monotonic()
        is_early, self._is_scheduled = self._is_scheduled and now < self._pass_at, False
        if not is_early:
            await self._pass(now)
        elif now >= self._look_at:
            await self._look(now)

    async def _look(self, began: float) -> None:
        """Give slots that Go freed to the next jobs of shared queues; a pass does the rest."""
        self._look_at = math.inf
        if await self._run_all(limited_job_release_ended()):
            for queue in self._shared(self._limits()):
                await self._run(limited_job_admit_available(queue=queue, limit=ADMIT_SIZE))
            self._changed_at = self._clock.monotonic()
            self._pass_at = min(self._pass_at, max(self._rest_until, self._changed_at + BUSY_SECONDS))
        self._plan_look(REST_SHARE * (self._clock.monotonic() - began))

    def _plan_look(self, rest_seconds: float) -> None:
        now = self._clock.monotonic()
        pause = max(LOOK_SECONDS, LOOK_SHARE * (now - self._changed_at), rest_seconds)
        self._look_at = now + pause if pause < PASS_SECONDS else math.inf

    async def _pass(self, began: float) -> None:
        limits = self._limits()
        self._look_at, self._pass_at = math.inf, began + (PASS_SECONDS if limits else IDLE_SECONDS)
        try:
            await self._free_removed(limits, began)
            if not limits:
                if began < self._search_until:
                    await self._run_all(limited_job_release_ended())
                return
            if limits is not self._limits_counted:
                self._limits_counted, self._num_counts_left = limits, COUNT_PASSES
            if self._num_counts_left and any(one.limit.total for one in limits.values()):
                self._num_counts_left -= 1
                await self.count_totals()
            await self._order(limits)
            num_changed = await self._maintain(limits, began)
            await self._check(began)
            await self._leave(limits, began)
        except Stopped:
            return
        except DriverError as error:
            if error.sqlstate in UNUSABLE:
                return
            raise
        self._plan(num_changed if self._shared(limits) else 0, began)
        self.probe("maintained", num_changed)

    def _plan(self, num_changed: int, began: float) -> None:
        """Plan the next pass, and the next look: changes were in a queue that Go workers share, or maybe in another one."""
        now = self._clock.monotonic()
        self._rest_until = now + REST_SHARE * (now - began)
        if num_changed:
            self._changed_at = now
        self._pass_at = max(now + (BUSY_SECONDS if num_changed else PASS_SECONDS), self._rest_until)
        self._plan_look(0.0)

    @staticmethod
    def _shared(limits: Mapping[str, QueueLimit]) -> list[str]:
        return sorted(queue for queue, one in limits.items() if one.limit.shared)

    async def _free_removed(self, limits: Mapping[str, QueueLimit], now: float) -> None:
        removed = set() if self._known is None else {*self._known.difference(limits)}
        if removed:
            self._search_until = now + SEARCH_SECONDS
        if self._known is None or self._search_at <= now < self._search_until:
            unlimited = await self._run(limited_job_get_unlimited())
            removed.update(unlimited)
            self._search_at = now + IDLE_SECONDS
        for queue in sorted(removed):
            num_jobs = 0
            while freed := await self._run(limited_job_free(queue)):
                num_jobs += freed
            if num_jobs:
                logger.info("limit removed", extra={"queue": queue, "num_jobs": num_jobs})
        self._known = frozenset(limits)

    async def _maintain(self, limits: Mapping[str, QueueLimit], now: float) -> int:
        """Do what is due every second; return how many jobs changed."""
        num_changed = await self._run_all(limited_job_release_ended())
        # A queue that was shared before may have some.
        num_changed += await self._run_all(limited_job_begin_to_wait())
        if any(one.limit.in_order for one in limits.values()):
            num_changed += await self._run_all(limited_job_wait_again())
        shared = self._shared(limits)
        if shared:
            num_changed += await self._run_all(limited_job_park())
        adopts_all = now >= self._adopt_at
        if shared and adopts_all:
            self._adopt_at = now + ADOPT_SECONDS
        failed: DriverError | None = None
        for queue in shared:
            try:
                num_changed += await self._share(queue, adopts_all=adopts_all)
            except DriverError as error:  # an invalid row of one limit does not stop the queues after it
                failed = error
        if failed is not None:
            raise failed
        return num_changed

    async def _share(self, queue: str, *, adopts_all: bool) -> int:
        """Let the jobs of a shared queue wait, and admit some for Go workers; return how many jobs changed."""
        num_adopted = await self._run_all(
            limited_job_adopt_pending(queue)
            if adopts_all
            else limited_job_adopt_newest(queue, num_read=NUM_NEWEST)
        )
        await self._run(limited_job_collect(queue))
        admitted = await self._run(limited_job_admit_available(queue=queue, limit=ADMIT_SIZE))
        return num_adopted + admitted.num_jobs

    async def _leave(self, limits: Mapping[str, QueueLimit], now: float) -> None:
        """Leave jobs to Go clients that a Python program inserted, and whose kind no Python client of the last day knows."""
        queues = {queue for queue, one in limits.items() if not (one.limit.shared or one.limit.in_order)}
        if not queues or now < self._leave_at:
            return
        self._leave_at = now + LEAVE_SECONDS
        fleet = await load_fleet(self._pool, self._clock.now())
        if not (fleet.is_registering and fleet.has_others):
            return
        for queue in sorted(queues):
            kinds = {kind for client in fleet.clients if queue in client.queues for kind in client.kinds}
            await self._run_all(limited_job_leave(queue, kinds=sorted(kinds)))

    async def _order(self, limits: Mapping[str, QueueLimit]) -> None:
        """After a limit was set in order, let jobs wait by id, also those of statements that began before that."""
        in_order = frozenset(queue for queue, one in limits.items() if one.limit.in_order)
        if in_order - self._in_order:
            self._num_orders_left = COUNT_PASSES
        self._in_order = in_order
        if self._num_orders_left:
            self._num_orders_left -= 1
            await self._run_all(limited_job_order())

    async def count_totals(self) -> list[str]:
        """Count the slots of limits that have a total; return the queues whose number was wrong."""
        async with self._pool.begin() as transaction:
            await transaction.run(limit_lock_totals().within(STATEMENT_SECONDS))
            return await transaction.run(limit_correct_totals().within(STATEMENT_SECONDS))

    async def _check(self, now: float) -> None:
        if now >= self._correct_at:
            for queue, partition_key in await self._run(limit_partition_get_differing()):
                await self._correct(queue, partition_key)
            for queue in await self.count_totals():
                logger.error("limit count corrected", extra={"queue": queue})
            self._correct_at = now + CORRECT_SECONDS
        if now >= self._delete_at:
            horizon = self._clock.now() - PARTITION_KEPT
            await self._run_all(limit_partition_delete_idle(horizon=horizon))
            self._delete_at = now + DELETE_SECONDS

    async def _correct(self, queue: str, partition_key: str) -> None:
        """Look again at one partition, which is locked, so that no admission or release comes between."""
        async with self._pool.begin() as transaction:
            await transaction.run(limit_partition_lock(queue, partition_key).within(STATEMENT_SECONDS))
            corrected = await transaction.run(limit_partition_correct(queue, partition_key))
        if corrected:
            logger.error("limit count corrected", extra={"queue": queue, "partition_key": partition_key})

    async def _run_all(self, query: Query[int]) -> int:
        """Run a statement until it changes less than a batch; return how many rows changed."""
        total = 0
        while True:
            num = await self._run(query)
            total += num
            if num < MAINTENANCE_BATCH_SIZE:
                return total

    async def _run(self, query: Query[T]) -> T:
        """Run a statement, unless this stops: a stop waits for one statement at most. Raises: Stopped."""
        if self.wake_event.is_stopping:
            raise Stopped
        return await self._pool.run(query.within(STATEMENT_SECONDS))
