"""
Fetch: free slots in, attempts out. One producer per queue of a client.

Rule 1: a fetch asks for as many jobs as slots are free, up to what `FetchSize` has; nothing is fetched ahead of a slot.
Rule 2: whoever rings only says "look": an insert, a resume, a freed slot after a fetch that was cut short by the slots.
        Between two fetches lies the cooldown, unless half of the slots are free again and more jobs are known to wait.
Rule 3: a fetch that was sent is finished, whatever happens meanwhile: its rows are marked running, and are worked.
Rule 4: a cancel that arrives while its job is being fetched is kept until the fetch is back. So is one of a job that
        runs here: an attempt that is only just ending, or was given up by a rescuer, may be followed by that fetch.
Rule 5: the jobs of a fetch whose answer was lost are looked for, and worked, as soon as the database is there again, and
        for a while after that.
Rule 6: an attempt stays on the list until it has ended, although its job may have been fetched here again.
Rule 7: where the start of a queue is full of dead entries, a fetch begins above them, and at the start now and then.
Rule 8: nothing is fetched before `begin`: what is started beside a producer may fail, and then no job was touched.

        ring · poll · slot ──▶ due? ──▶ fetch ──▶ Attempt ──▶ executor ──▶ slot

Source: River v0.51.2, producer.go `fetchAndRunLoop, dispatchWork`.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from millhand.clock import backoff_seconds
from millhand.driver.protocol import Executor
from millhand.errors import MillhandError
from millhand.event import Event, EventKind
from millhand.job import ClientId, JobId, JobRow
from millhand.queue import QueueRow
from millhand.runtime.attempt import Attempt, CancelReason
from millhand.runtime.fetch_size import FetchSize
from millhand.runtime.fetch_start import FetchStarts
from millhand.runtime.lost_fetch import LostFetches
from millhand.runtime.outage import level_of
from millhand.runtime.service import Service, WakeReason
from millhand.runtime.subscription import Subscriptions
from millhand.store.job import job_get_available, job_get_lost
from millhand.store.job_fetch import Floors, job_get_available_above
from millhand.store.query import Query
from millhand.store.queue import queue_create_or_set_updated_at

logger = logging.getLogger(__name__)

NEVER = datetime.min.replace(tzinfo=UTC)


class Producer(Service):
    """
    Fetches for one queue and owns its running attempts.

    `execute` works one attempt and hands over what becomes of it; `on_fetched` is told how many jobs a fetch took, in how
    many seconds. Neither raises.
    Concurrency: belongs to the client's event loop; at most one fetch at a time.
    """

    def __init__(
        self,
        queue: str,
        pool: Executor,
        *,
        client_id: ClientId,
        cooldown_seconds: float,
        execute: Callable[[Attempt], Any],
        kinds: Sequence[str] | None,
        max_workers: int,
        poll_seconds: float,
        subscriptions: Subscriptions,
        on_fetched: Callable[[int, float], None] | None = None,
    ) -> None:
        super().__init__()
        self._attempts: dict[JobId, Attempt] = {}
        self._cancelled_while_fetching: set[int] | None = None
        self._client_id = client_id
        self._due_ats: list[float] = []  # a heap
        self._cooldown_seconds = cooldown_seconds
        self._execute = execute
        self._floors = FetchStarts(NEVER, 0.0)
        self._has_begun = False
        self._has_told = False  # of a failure
        self._is_wanted = True  # whether somebody said "look" since the last fetch
        self._kinds = kinds
        self._last_fetch = 0.0
        self._lost = LostFetches(NEVER)
        self._max_workers = max_workers
        self._more_is_waiting = False  # whether the last fetch was cut short by its limit
        self._num_failures = 0
        self._num_slots_taken = 0
        self._on_fetched = on_fetched
        self._overtaken: set[Attempt] = set()  # their jobs were fetched here again before they had ended
        self._poll_at = 0.0
        self._poll_seconds = poll_seconds
        self._pool = pool
        self._size = FetchSize()
        self._subscriptions = subscriptions
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self.is_paused = False
        self.num_pauses_heard = 0
        self.queue = queue
        self.touched_at: datetime | None = None

    @property
    def name(self) -> str:
        return f"Producer({self.queue})"

    @property
    def max_workers(self) -> int:
        """How many attempts run here at most."""
        return self._max_workers

    @property
    def num_running(self) -> int:
        """How many attempts run here."""
        return len(self._attempts) + len(self._overtaken)

    @property
    def running(self) -> Collection[Attempt]:
        """A snapshot of the attempts that run here; of one job there may be several."""
        return (*self._overtaken, *self._attempts.values())

    def holds(self, id: JobId) -> bool:
        """Whether an attempt at the job runs here."""
        return id in self._attempts or any(attempt.row.id == id for attempt in self._overtaken)

    async def run(self, started: Callable[[], None]) -> None:
        row = await self._pool.run(queue_create_or_set_updated_at(self.queue))
        self.see_touched(row)
        self._lost = LostFetches(row.updated_at)
        self._floors = FetchStarts(row.updated_at, asyncio.get_running_loop().time())
        self.is_paused = row.is_paused
        self._is_wanted = True
        started()
        loop = asyncio.get_running_loop()
        self._poll_at = loop.time()
        while await self.wake_event.wait(self._pause_seconds(loop.time())) is not WakeReason.STOP:
            if loop.time() >= self._poll_at:
                self._is_wanted = True
            # Again at once while that is allowed: the next fetch is on its way before the last one's jobs have their turn.
            while not self.wake_event.is_stopping and self._pause_seconds(loop.time()) <= 0.0:
                await self._fetch_once()

    async def wait_idle(self) -> None:
        """Return when no attempt runs here."""
        await self._is_idle.wait()

    # What others say to a producer. None of it waits.

    def begin(self) -> None:
        """Fetch from now on."""
        self._has_begun = True
        self.wake_event.set()

    def on_insert(self) -> None:
        """Look: something was inserted here, or may have been."""
        self._is_wanted = True
        self.wake_event.set()

    def on_due(self, seconds: float) -> None:
        """Look in `seconds` at the latest: something of ours is due then, and nobody will announce it."""
        due_at = asyncio.get_running_loop().time() + seconds
        heapq.heappush(self._due_ats, due_at)
        if due_at < self._poll_at:
            self._poll_at = due_at
            self.wake_event.set()

    def on_paused(self, *, is_paused: bool) -> None:
        """Stop or go on fetching, as was announced; what runs is not touched."""
        self.num_pauses_heard += 1
        self._set_paused(is_paused=is_paused)

    def see_paused(self, *, is_paused: bool, num_pauses_heard: int) -> None:
        """Do as the queue's row said, unless something was announced since it was asked: that is newer."""
        if num_pauses_heard == self.num_pauses_heard:
            self._set_paused(is_paused=is_paused)

    def see_touched(self, row: QueueRow) -> None:
        """Take note of when this client touched its queue's row, as the row says."""
        self.touched_at = row.updated_at

    def cancel(self, id: int) -> None:
        """Cancel all attempts of a job that run here or are on their way here."""
        attempt = self._attempts.get(JobId(id))
        if attempt is not None:
            attempt.cancel(CancelReason.REMOTE)
        for overtaken in self._overtaken:
            if overtaken.row.id == id:
                overtaken.cancel(CancelReason.REMOTE)
        if self._cancelled_while_fetching is not None:
            self._cancelled_while_fetching.add(id)

    def cancel_lost(self, lost_at: datetime) -> int:
        """Cancel attempts at jobs that were fetched before this client was declared dead; return how many."""
        lost = [one for one in self.running if one.row.attempted_at is None or one.row.attempted_at < lost_at]
        for attempt in lost:
            attempt.cancel(CancelReason.LOST)
        return len(lost)

    def cancel_all(self, reason: CancelReason) -> int:
        """Cancel whatever runs; return how many attempts that were."""
        running = self.running
        for attempt in running:
            attempt.cancel(reason)
        return len(running)

    def release_slot(self, attempt: Attempt) -> None:
        """Take the slot of an attempt as free although it runs: it is stuck, and others should not wait for it."""
        if attempt.has_slot:
            attempt.has_slot = False
            self._num_slots_taken -= 1
            self.on_insert()

    # The loop's own.

    def _set_paused(self, *, is_paused: bool) -> None:
        if self.is_paused is is_paused:
            return
        self.is_paused = is_paused
        kind = EventKind.QUEUE_PAUSED if is_paused else EventKind.QUEUE_RESUMED
        logger.info("queue paused" if is_paused else "queue resumed", extra={"queue": self.queue})
        self._subscriptions.distribute([Event(kind=kind, queue=self.queue)])
        self.on_insert()

    def _num_free(self) -> int:
        return self._max_workers - self._num_slots_taken

    def _pause_seconds(self, now: float) -> float:
        """How long to sleep before the next fetch, if nobody rings; zero: fetch now. Decides, does nothing."""
        if not self._has_begun or self.is_paused or self._num_free() <= 0:
            return self._poll_seconds
        until_poll = max(self._poll_at - now, 0.0)
        if not self._is_wanted or self._num_failures:
            return until_poll
        if self._more_is_waiting and self._num_free() * 2 >= self._max_workers:
            return 0.0
        return max(min(self._last_fetch + self._cooldown_seconds - now, until_poll), 0.0)

    async def _fetch_once(self) -> None:
        loop = asyncio.get_running_loop()
        self._is_wanted = False
        self._last_fetch = loop.time()
        self._poll_at = self._next_poll_at(self._last_fetch)
        self._cancelled_while_fetching = set()
        lost, limit = self._lost, self._size.most
        try:
            if lost.is_due(loop.time()):
                await self._find_lost(lost)
            # What was found may be more than there are slots.
            limit = max(min(self._num_free(), limit), 0)
            sent = loop.time()
            floors = self._floors.asked(sent)
            rows = await self._pool.run(self._query(floors, limit, sent))
        except MillhandError as error:
            self._size.record_failed(error, limit)
            lost.record_failed(error, loop.time())
            self._failed(error, loop.time())
        else:
            lost.record_answered(rows)
            self._size.record_answered()
            self._floors.record_fetched(floors, rows, limit=limit, sent=sent, answered=loop.time())
            if self._floors.recheck_at is not None:
                self._poll_at = min(self._poll_at, self._floors.recheck_at)
            self._recovered()
            if self._on_fetched is not None:
                self._on_fetched(len(rows), loop.time() - self._last_fetch)
            self._more_is_waiting = len(rows) == limit
            self._is_wanted |= self._more_is_waiting
            self._begin(rows, self._cancelled_while_fetching)
            self.probe("fetched", len(rows))
        finally:
            self._cancelled_while_fetching = None

    def _query(self, floors: Floors | None, limit: int, now: float) -> Query[list[JobRow]]:
        name, me, kinds = self.queue, self._client_id, self._kinds
        if floors is None:
            return job_get_available(queue=name, limit=limit, client_id=me, kinds=kinds)
        slack = self._floors.slack_seconds(now)
        return job_get_available_above(
            floors, queue=name, limit=limit, client_id=me, kinds=kinds, slack_seconds=slack
        )

    async def _find_lost(self, lost: LostFetches) -> None:
        query = job_get_lost(queue=self.queue, client_id=self._client_id, after=lost.after)
        loop = asyncio.get_running_loop()
        asked = loop.time()
        marked = await self._pool.run(query)
        rows = lost.record_found(marked, asked=asked, now=loop.time())
        if (seconds := lost.seconds_left(loop.time())) is not None:
            self.on_due(seconds)
        if rows:
            logger.warning("lost fetch found", extra={"queue": self.queue, "num_jobs": len(rows)})
            self._begin(rows, self._cancelled_while_fetching or ())

    def _begin(self, rows: Sequence[JobRow], cancelled: Collection[int]) -> None:
        attempts, create_task = self._attempts, asyncio.get_running_loop().create_task
        self._num_slots_taken += len(rows)
        if rows:
            self._is_idle.clear()
        for row in rows:
            attempt, id = Attempt(row), row.id
            former = attempts.setdefault(id, attempt)
            if former is not attempt:
                self._overtaken.add(former)
                attempts[id] = attempt
            if id in cancelled:
                attempt.cancel(CancelReason.REMOTE)
            attempt.task = create_task(self._work(attempt))

    async def _work(self, attempt: Attempt) -> None:
        try:
            await self._execute(attempt)
        finally:
            self._finished(attempt)

    def _finished(self, attempt: Attempt) -> None:
        attempts, id = self._attempts, attempt.row.id
        # Only its own entry: a snoozed job may have been fetched here again before this line.
        if attempts.get(id) is attempt:
            del attempts[id]
        else:
            self._overtaken.discard(attempt)
        if attempt.has_slot:
            self._num_slots_taken -= 1
        if self._more_is_waiting:
            self._is_wanted = True
            self.wake_event.set()
        if not attempts and not self._overtaken:
            self._is_idle.set()

    def _next_poll_at(self, now: float) -> float:
        while self._due_ats and self._due_ats[0] <= now:
            heapq.heappop(self._due_ats)
        spread = max(self._poll_seconds * 0.1, 0.010)
        poll_at = now + self._poll_seconds + random.uniform(0.0, spread)  # noqa: S311 - spreads load, guards nothing
        return min(poll_at, self._due_ats[0]) if self._due_ats else poll_at

    def _failed(self, error: MillhandError, now: float) -> None:
        self._num_failures += 1
        level = logging.DEBUG if self._has_told else level_of(error)
        self._has_told |= level == logging.WARNING
        fields = {"queue": self.queue, "error_type": type(error).__name__, "error": str(error)}
        logger.log(level, "fetch failed", extra=fields)
        self._poll_at = now + min(
            backoff_seconds(self._num_failures, first=0.2, ceiling=5.0), max(self._poll_seconds, 0.2)
        )

    def _recovered(self) -> None:
        if self._has_told:
            self._has_told = False
            logger.info("fetch recovered", extra={"queue": self.queue, "num_failures": self._num_failures})
        self._num_failures = 0
