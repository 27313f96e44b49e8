"""
Changes of many jobs: all that a search selects.

    collecting: search pages ──▶ batches of ids      running: batch ──▶ one transaction ──▶ next batch

Rule 1: the ids are collected first, so the numbers that a user confirms are exact, and a job that comes to match later is
        left alone.
Rule 2: a batch, its results and its mark as done are one transaction. A process that is killed leaves each batch done or
        untouched, and another process goes on after `PATIENCE`.
Rule 3: a job that cannot be changed is counted with its reason, and does not keep the others.
Rule 4: a retry stops by itself when most of the first jobs fail again.
Rule 5: a change whose batch fails shows why on its page. It is tried again after `PATIENCE`, and others go on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from millhand.core.errors import UNIQUE_CONSTRAINT, DriverError, MillhandError
from millhand.core.job import JobId
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.engine.service import Service, WakeReason
from millhand.engine.store.bulk_change import (
    BulkAction,
    BulkChange,
    BulkState,
    JobsChanged,
    bulk_change_claim,
    bulk_change_collect,
    bulk_change_complete,
    bulk_change_delay,
    bulk_change_get_outcomes,
    bulk_change_get_shape,
    bulk_change_hold,
    bulk_change_next_batch,
    bulk_change_record,
    bulk_change_stop,
    job_change_many,
)
from millhand.engine.store.job_search import JobSearch
from millhand.shells.settings.web_user import User
from millhand.shells.web.database import WebDatabase
from millhand.shells.web.hiding import Hiding
from millhand.web.job_search import search_jobs
from millhand.web.search import parse_search
from millhand.web.search_conditions import job_search_of
from millhand.web.time_zone import zone_named

logger = logger_of(__name__)

BATCH_SIZE = 500
IDLE_SECONDS = 30.0
# A retry is judged by so many of its jobs, once so many of them have ended.
JUDGED_MAX = 200
JUDGED_MIN = 50
NAMES_MAX = 100  # kinds and queues that are counted by name
OTHERS = "(others)"
FAIL_AGAIN = "most of the first jobs failed again"
REASON_MAX = 500

_UNIQUE = "another job has the unique key"
_LEFT = {
    BulkAction.CANCEL: "ended before",
    BulkAction.DELETE: "running, or gone",
    BulkAction.RETRY: "running, pending, due already, or gone",
}


class BulkRunner(Service):
    """
    Works on the changes of many jobs, one after the other.

    Concurrency: belongs to one event loop. Any number of processes may run one; each change has one holder.
    """

    def __init__(self, database: WebDatabase, holder: str, hide: Hiding) -> None:
        super().__init__()
        self._hide = hide
        self._database = database
        self._holder = holder

    async def run(self, started: Callable[[], None]) -> None:
        started()
        while not self.wake_event.is_stopping:
            pause = IDLE_SECONDS
            try:
                await self._database.open()
                pause = await self._step()
            except MillhandError as error:
                logger.warning(
                    "bulk change delayed", extra={"error": str(error), **self._database.log_fields}
                )
            if await self.wake_event.wait(pause) is WakeReason.STOP:
                return

    async def _step(self) -> float:
        """Do one batch of the next change, and return the pause after it."""
        pool = self._database.driver.pool
        if not await self._database.has(bulk_change_get_shape):
            return IDLE_SECONDS
        change = await pool.run(bulk_change_claim(self._holder))
        if change is None:
            return IDLE_SECONDS
        try:
            if change.state is not BulkState.COLLECTING:
                return await self._change_batch(change)
            await self._collect(change)
        except Exception as error:  # noqa: BLE001 - of one change, which does not keep the others
            await self._delay(change, error)
        return 0.0

    async def _delay(self, change: BulkChange, error: Exception) -> None:
        """Show on the page of a change why its batch failed; an error may repeat values that a rule hides."""
        text = str(error) or type(error).__name__
        reason = text[:REASON_MAX] if self._hide.is_empty else f"{type(error).__name__}; see the log"
        await self._database.driver.pool.run(bulk_change_delay(change, self._holder, reason=reason))
        fields = {"subject": f"bulk change {change.id}", "error": text}
        logger.warning("bulk change delayed", extra={**fields, **self._database.log_fields})

    async def _collect(self, change: BulkChange) -> None:
        pool = self._database.driver.pool
        page = await search_jobs(
            pool, search_of(change, self._hide), after=change.collected_to, limit=BATCH_SIZE
        )
        kinds = counted(change.kinds, [job.kind for job in page.jobs])
        queues = counted(change.queues, [job.queue for job in page.jobs])
        async with pool.begin() as tx:
            if await tx.run(bulk_change_hold(change, self._holder)):
                ids = [job.id for job in page.jobs]
                await tx.run(
                    bulk_change_collect(change, ids, collected_to=page.after, kinds=kinds, queues=queues)
                )

    async def _change_batch(self, change: BulkChange) -> float:
        pool, loop = self._database.driver.pool, asyncio.get_running_loop()
        began = loop.time()
        if await self._fails_again(change):
            await pool.run(bulk_change_stop(change.id, reason=FAIL_AGAIN))
            fields = {"subject": f"bulk change {change.id}", "reason": FAIL_AGAIN}
            logger.warning("bulk change stopped", extra={**fields, **self._database.log_fields})
            return 0.0
        async with pool.begin() as tx:
            if not await tx.run(bulk_change_hold(change, self._holder)):
                return 0.0  # it was stopped, or another process has it
            # A second's jobs at once: a stop comes in time, whatever the pace.
            limit = min(change.jobs_per_second or BATCH_SIZE, BATCH_SIZE)
            batch = await tx.run(bulk_change_next_batch(change.id, limit=limit))
            if batch is None:
                await tx.run(bulk_change_complete(change, self._holder))
                return 0.0
            changed, reasons = await change_jobs(tx, change.action, batch.job_ids, self._database.clock.now())
            skipped = Counter(change.skipped) + reasons
            await tx.run(bulk_change_record(change, batch, changed, skipped))
        if change.jobs_per_second is None:
            return 0.0
        return max(0.0, len(batch.job_ids) / change.jobs_per_second - (loop.time() - began))

    async def _fails_again(self, change: BulkChange) -> bool:
        if change.action is not BulkAction.RETRY or change.num_changed < JUDGED_MIN:
            return False
        outcomes = await self._database.run(bulk_change_get_outcomes(change, limit=JUDGED_MAX))
        return outcomes.num_ended >= JUDGED_MIN and outcomes.num_failed * 2 > outcomes.num_ended


async def change_jobs(
    tx: Executor, action: BulkAction, ids: Sequence[JobId], now: datetime
) -> tuple[list[JobId], Counter[str]]:
    """Change the jobs that can be changed, in a transaction; return their ids, and the number left for each reason."""
    try:
        async with tx.begin() as savepoint:
            done = await savepoint.run(job_change_many(action, ids, now=now))
    except DriverError as error:
        if error.constraint != UNIQUE_CONSTRAINT:
            raise
    else:
        return done.ids, _reasons(action, len(ids), done)
    changed, reasons = list[JobId](), Counter[str]()
    for id in ids:
        try:
            async with tx.begin() as savepoint:
                done = await savepoint.run(job_change_many(action, [id], now=now))
        except DriverError as error:
            if error.constraint != UNIQUE_CONSTRAINT:
                raise
            reasons[_UNIQUE] += 1
        else:
            changed += done.ids
            reasons += _reasons(action, 1, done)
    return changed, reasons


def _reasons(action: BulkAction, num: int, done: JobsChanged) -> Counter[str]:
    num_conflicting = len(done.conflicting)
    return +Counter({_UNIQUE: num_conflicting, _LEFT[action]: num - len(done.ids) - num_conflicting})


def search_of(change: BulkChange, hide: Hiding) -> JobSearch:
    """Return the jobs that a change is about: its search as of its creation, within its user's limits."""
    user = User(name=change.actor, queues=change.only_queues, kinds=change.only_kinds)
    search, zone = parse_search(change.search), zone_named(change.time_zone)
    return job_search_of(search, now=change.created_at, zone=zone, user=user, hide=hide)


def counted(before: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """Return the numbers with further names added; beyond `NAMES_MAX` names the rest is counted together."""
    counts = Counter(before)
    for name in names:
        counts[name if name in counts or len(counts) < NAMES_MAX else OTHERS] += 1
    return dict(counts)


def drain_time(num_jobs: int, ended_per_minute: float) -> timedelta | None:
    """Return how long queues need for so many jobs at their rate, or None without a rate."""
    return timedelta(minutes=num_jobs / ended_per_minute) if ended_per_minute > 0 else None
