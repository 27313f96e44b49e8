"""
Polls for cancels and pauses whose notification was lost, and updates the row of a producer's queue.

    every pass        cancel attempts whose jobs were cancelled; pause or resume as the queue's row says
    every 10 minutes  update the queue's row: the queue cleaner deletes a row that is a day old. Also after another program
                      changed the row, or that change would show an unregistered client

With a listener, the poller makes a pass every minute. In poll-only mode no notification comes, so it makes one every two
seconds.

Source: River v0.51.2, producer.go `pollForJobCancellations, pollForSettingChanges, reportQueueStatusLoop`.
"""

from __future__ import annotations

import asyncio

from millhand.core.clock import jittered
from millhand.core.errors import NotFound
from millhand.db.driver.protocol import Executor
from millhand.engine.attempt import CancelReason
from millhand.engine.lock_wait import LockWaits
from millhand.engine.producer import Producer
from millhand.engine.service import IntervalService
from millhand.engine.store.job import job_get_cancel_requested
from millhand.engine.store.queue import queue_create_or_set_updated_at, queue_get

# As often as River's producers.
TOUCH_SECONDS = 600.0
PASS_SECONDS = 60.0
PASS_SECONDS_POLL_ONLY = 2.0
BATCH_SIZE = 1_000


class QueuePoller(IntervalService):
    """Polls the cancels and the settings of one producer's queue."""

    def __init__(
        self,
        producer: Producer,
        pool: Executor,
        *,
        locks: LockWaits | None = None,
        is_poll_only: bool = False,
    ) -> None:
        super().__init__()
        self._locks = LockWaits(pool) if locks is None else locks
        self._pool = pool
        self._producer = producer
        self._touch_at = asyncio.get_running_loop().time() + jittered(TOUCH_SECONDS, 0.01)
        self.interval_seconds = PASS_SECONDS_POLL_ONLY if is_poll_only else PASS_SECONDS

    async def run_once(self) -> None:
        await self.poll_cancellations()
        await self.poll_settings()

    def next_pause_seconds(self) -> float:
        return jittered(self.interval_seconds)

    def touch_soon(self) -> None:
        """Update the queue's row now, because a program that does not work the queue changed it."""
        self._touch_at = 0.0
        self.wake_event.set()

    async def poll_cancellations(self) -> None:
        """Cancel the running attempts whose jobs were cancelled, but none that starts meanwhile."""
        running = list(self._producer.running)
        for start in range(0, len(running), BATCH_SIZE):
            batch = running[start : start + BATCH_SIZE]
            ids = {attempt.row.id for attempt in batch}
            cancelled = await self._pool.run(job_get_cancel_requested(ids))
            for attempt in batch:
                if attempt.row.id in frozenset(cancelled):
                    attempt.cancel(CancelReason.REMOTE)

    async def poll_settings(self) -> None:
        """Pause or resume the producer as the queue's row says; update the row when that is due or the row is gone."""
        name, now = self._producer.queue, asyncio.get_running_loop().time()
        is_touch_due = now >= self._touch_at or self._producer.updated_at is None
        num_notifications = self._producer.num_pause_notifications
        try:
            if is_touch_due:
                row = await self._locks.run(queue_create_or_set_updated_at(name))
            else:
                row = await self._pool.run(queue_get(name))
        except NotFound:
            is_touch_due = True
            row = await self._locks.run(queue_create_or_set_updated_at(name))
        if is_touch_due:
            self._touch_at = now + jittered(TOUCH_SECONDS, 0.01)
            self._producer.updated_at = row.updated_at
        elif self._producer.is_paused and not row.is_paused:
            self._touch_at = 0.0
        self._producer.apply_polled_pause(is_paused=row.is_paused, num_notifications=num_notifications)
