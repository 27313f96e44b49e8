"""
Copies discarded jobs to dead letters, before a leader in any language deletes them.

Rule 1: nothing is moved when a job is deleted. A discarded job is copied soon after its discard, and then any leader may
        delete it at any time.
Rule 2: a discard has one copy. A copy locks the job, and is made only if it has none of this discard. A pass that was
        killed, or two copiers at once, do no harm.
Rule 3: a commit may be late. So each pass reads again what was discarded after `settled_to`. A pass that skips no job moves
        that instant to five minutes before an earlier pass, if every transaction that wrote before that one has ended.
Rule 4: our cleaner deletes no discarded job from after `settled_to`.
Rule 5: what a statement reads has a bound: a page of jobs, a quarter of it after a timeout.
Rule 6: it asks when there is something to copy, and else once an hour. The history's writer reads the instant of the last
        discard in the statement with which it begins each pass, and the engine wakes this service if that has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from millhand.core.clock import Clock
from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.log.logger import logger_of
from millhand.core.sqlstate import UNUSABLE
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.dead_jobs.store import (
    CopyStart,
    dead_job_begin,
    dead_job_copy,
    dead_job_copy_settings,
    dead_job_delete_before,
    dead_job_delete_retried,
    dead_job_end,
    dead_job_forget,
    dead_job_get_shape,
)
from millhand.engine.maintenance.batch import STATEMENT_SECONDS
from millhand.engine.registration import Registration
from millhand.engine.service import IntervalService, WakeReason

T = TypeVar("T")

logger = logger_of(__name__)

PAGE_SIZE = 1_000
PAGE_SIZE_MIN = 10
# The clocks of a fleet differ by less than this, and a discard is committed within it.
LATE = timedelta(minutes=5)
# Until what was copied last is settled.
UNSETTLED_SECONDS = 360.0
FAILED_SECONDS = 60.0
# Between two deletions of old dead letters, and between two passes if no job is discarded.
IDLE_SECONDS = 3_600.0
PAGE_PAUSE_SECONDS = 0.05


class DeadJobCopier(IntervalService):
    """
    Copies discarded jobs as the leader of role `periodic`, and deletes dead letters that are older than `retention`.

    While `registration` is not active, or without the tables of migration 13, a pass does nothing. With a retention of
    zero there are no dead letters. `now` returns the time for tests, or None for the database's.
    """

    interval_seconds = IDLE_SECONDS

    def __init__(
        self,
        pool: Executor,
        *,
        clock: Clock,
        registration: Registration,
        retention: timedelta | None,
        now: Callable[[], datetime | None] = lambda: None,
    ) -> None:
        super().__init__()
        self._clean_at = 0.0
        self._clock = clock
        self._is_there = False
        self._now = now
        self._page_size = PAGE_SIZE
        self._pause_seconds = IDLE_SECONDS
        self._pool = pool
        self._registration = registration
        self._retention = retention

    async def run(self, started: Callable[[], None]) -> None:
        self._is_there, self._clean_at = False, 0.0
        await super().run(started)

    def next_pause_seconds(self) -> float:
        return self._pause_seconds

    async def run_once(self) -> None:
        self._pause_seconds = FAILED_SECONDS
        if not self._registration.is_active:
            return
        try:
            self._is_there = self._is_there or await self._run(dead_job_get_shape())
            if not self._is_there:
                self._pause_seconds = IDLE_SECONDS
            elif self._retention == timedelta(0):
                await self._run(dead_job_forget())  # so that cleaners do not wait for copies
                await self._delete_old()
                self._pause_seconds = IDLE_SECONDS
            else:
                await self._copy_and_clean()
        except OperationTimeout:
            self._page_size = max(PAGE_SIZE_MIN, self._page_size // 4)
            raise
        except DriverError as error:
            if error.sqlstate not in UNUSABLE:
                raise
            self._is_there = False

    async def _copy_and_clean(self) -> None:
        start = await self._run(dead_job_begin(now=self._now()))
        num_copied, num_skipped = await self._copy(start)
        if num_copied:
            logger.debug("dead letters copied", extra={"num_jobs": num_copied})
        is_settled = await self._end(start, has_skipped=num_skipped > 0)
        self._page_size = min(2 * self._page_size, PAGE_SIZE)
        if self._clock.monotonic() >= self._clean_at:
            self._clean_at = self._clock.monotonic() + IDLE_SECONDS
            await self._delete_old()
            await self._delete_retried()
        self._pause_seconds = IDLE_SECONDS if is_settled else UNSETTLED_SECONDS
        self.probe("copied", num_copied)

    async def _copy(self, start: CopyStart) -> tuple[int, int]:
        """Copy what was discarded since `settled_to`, page by page; return how many jobs were copied and skipped."""
        at, id, num_copied, num_skipped = start.settled_to, 0, 0, 0
        while True:
            limit = self._page_size
            query = dead_job_copy(
                after_at=at, after_id=id, limit=limit, retention=self._retention, now=self._now()
            )
            async with self._pool.begin() as transaction:
                await transaction.run(dead_job_copy_settings().within(STATEMENT_SECONDS))
                page = await transaction.run(query.within(STATEMENT_SECONDS))
            num_copied += page.num_copied
            num_skipped += page.num_skipped
            self.probe("page", page)
            if page.num_read < limit or page.last_at is None or page.last_id is None:
                return num_copied, num_skipped
            if not await self._may_continue():
                return num_copied, num_skipped
            at, id = page.last_at, page.last_id

    async def _end(self, start: CopyStart, *, has_skipped: bool) -> bool:
        """Record how far this pass has come, unless it has skipped a job; return whether everything is settled."""
        if self.wake_event.is_stopping:
            return False
        has_ended = start.has_ended and not has_skipped
        settled_to = start.seen_at - LATE if has_ended and start.seen_at is not None else None
        is_seen = has_ended or start.is_of_other_server
        query = dead_job_end(seen_at=start.at, seen_xid=start.xid, settled_to=settled_to, is_seen=is_seen)
        return await self._run(query) and not has_skipped

    async def _delete_old(self) -> None:
        if self._retention is None:
            return
        total = 0
        while True:
            query = dead_job_delete_before(retention=self._retention, limit=PAGE_SIZE, now=self._now())
            num_deleted = await self._run(query)
            total += num_deleted
            if num_deleted < PAGE_SIZE or not await self._may_continue():
                break
        if total:
            logger.debug("dead letters deleted", extra={"num_jobs": total})

    async def _delete_retried(self) -> None:
        """Delete the dead letters of jobs that were retried by other means, before those jobs' rows are deleted."""
        after_id = 0
        while True:
            page = await self._run(dead_job_delete_retried(after_id=after_id, limit=PAGE_SIZE))
            if page.num_read < PAGE_SIZE or page.last_id is None or not await self._may_continue():
                return
            after_id = page.last_id

    async def _may_continue(self) -> bool:
        """Rest between full pages; return False if the service stops."""
        return await self.wake_event.wait(PAGE_PAUSE_SECONDS) is not WakeReason.STOP

    async def _run(self, query: Query[T]) -> T:
        return await self._pool.run(query.within(STATEMENT_SECONDS))
