"""
What a producer asks the database now and then, because a notification may have been lost.

    every pass        which of my running jobs were cancelled?  is my queue paused?
    every 10 minutes  my queue is in use (or the queue cleaner removes its row after a day); and when somebody else has
                      touched the row, so that it does not look as if a client of another language had

With a listening connection a pass a minute is enough; without one (poll-only mode) it is the only way to hear of a
cancel or a pause, and comes every two seconds.

Source: River v0.51.2, producer.go `pollForJobCancellations, pollForSettingChanges, reportQueueStatusLoop`.
"""

from __future__ import annotations

import asyncio

from millhand.clock import jittered
from millhand.driver.protocol import Executor
from millhand.errors import NotFound
from millhand.runtime.attempt import CancelReason
from millhand.runtime.producer import Producer
from millhand.runtime.service import IntervalService
from millhand.store.job import job_get_cancel_requested
from millhand.store.queue import queue_create_or_set_updated_at, queue_get

HEARTBEAT_SECONDS = 600.0
PASS_SECONDS = 60.0
PASS_SECONDS_POLL_ONLY = 2.0
BATCH_SIZE = 1_000


class QueuePoller(IntervalService):
    """Looks after one producer's queue; says what it finds to the producer alone."""

    def __init__(self, producer: Producer, pool: Executor, *, is_poll_only: bool = False) -> None:
        super().__init__()
        self._heartbeat_at = asyncio.get_running_loop().time() + jittered(HEARTBEAT_SECONDS, 0.01)
        self._pool = pool
        self._producer = producer
        self.interval_seconds = PASS_SECONDS_POLL_ONLY if is_poll_only else PASS_SECONDS

    async def run_once(self) -> None:
        await self.poll_cancellations()
        await self.poll_settings()

    def next_pause_seconds(self) -> float:
        return jittered(self.interval_seconds)

    def touch_soon(self) -> None:
        """Say now that the queue is in use: somebody has changed its row who may not use it himself."""
        self._heartbeat_at = 0.0
        self.wake_event.set()

    async def poll_cancellations(self) -> None:
        """Cancel the attempts that run now and whose jobs were cancelled; an attempt begun meanwhile is not touched."""
        running = list(self._producer.running)
        for start in range(0, len(running), BATCH_SIZE):
            batch = running[start : start + BATCH_SIZE]
            ids = {attempt.row.id for attempt in batch}
            cancelled = await self._pool.run(job_get_cancel_requested(ids))
            for attempt in batch:
                if attempt.row.id in frozenset(cancelled):
                    attempt.cancel(CancelReason.REMOTE)

    async def poll_settings(self) -> None:
        """Pause or resume the producer as the queue's row says; renew the row when it is time, or gone."""
        name, now = self._producer.queue, asyncio.get_running_loop().time()
        is_heartbeat_due = now >= self._heartbeat_at
        num_heard = self._producer.num_pauses_heard
        try:
            query = queue_create_or_set_updated_at(name) if is_heartbeat_due else queue_get(name)
            row = await self._pool.run(query)
        except NotFound:
            is_heartbeat_due = True
            row = await self._pool.run(queue_create_or_set_updated_at(name))
        if is_heartbeat_due:
            self._heartbeat_at = now + jittered(HEARTBEAT_SECONDS, 0.01)
            self._producer.see_touched(row)
        elif self._producer.is_paused and not row.is_paused:
            self._heartbeat_at = 0.0
        self._producer.see_paused(is_paused=row.is_paused, num_pauses_heard=num_heard)
