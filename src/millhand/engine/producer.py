"""
Fetches jobs for the free slots of one queue, and starts an attempt for each. One producer for each queue of a client.

Rule 1: a fetch asks for as many jobs as there are free slots, up to `FetchSize.limit`. No job is fetched without a slot.
Rule 2: an insert, a resume, or a slot freed while more jobs wait wakes the producer. Fetches are a cooldown apart, except
        when half of the slots are free and more jobs wait. While jobs are shorter than fetches, the next fetch waits for
        those of the last one; `refetch_pause.py` has the rules.
Rule 3: a stop never interrupts a fetch that was sent: its rows are marked running, so the producer works them.
Rule 4: a cancel that arrives during a fetch also cancels the attempts that the fetch starts. This holds for a job that
        already runs here, because the fetch may return its next attempt.
Rule 5: if the answer to a fetch is lost, the producer searches for its jobs once the database answers, and works them.
Rule 6: an attempt counts as running until it ends, even if its job has been fetched here again.
Rule 7: a fetch skips dead index entries at the start of a queue; `fetch_start.py` has the rules.
Rule 8: no job is fetched before `begin`. The engine calls it when all services are up; if one fails, no job was touched.
Rule 9: while the queue has rules, their `QueueFetch` fetches, and says for how many workers. The completer may give it
        jobs that ended: then it fetches at once, for no worker if the queue is paused.

        wake · poll · slot ──▶ due? ──▶ fetch ──▶ Attempt ──▶ executor ──▶ slot

Source: River v0.51.2, producer.go `fetchAndRunLoop, dispatchWork`.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from millhand.core.clock import backoff_seconds
from millhand.core.errors import MillhandError
from millhand.core.event import Event, EventKind
from millhand.core.job import ClientId, JobId, JobRow
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.engine.attempt import Attempt, CancelReason, task_maker
from millhand.engine.error_text import error_fields
from millhand.engine.fetch_size import FETCH_SIZE_MAX, FetchSize
from millhand.engine.fetch_start import FetchStarts
from millhand.engine.lock_wait import Locked, LockWaits
from millhand.engine.lost_fetch_search import LostFetchSearch, cancel_fetched_before
from millhand.engine.outage import level_of
from millhand.engine.pending_change import EndedJobs
from millhand.engine.queue_rules import QueueRules
from millhand.engine.refetch_pause import RefetchPause
from millhand.engine.service import Service, WakeReason
from millhand.engine.store.job import (
    job_get_available,
    job_get_available_after,
    job_get_available_counted,
    job_get_lost,
)
from millhand.engine.store.queue import queue_create_or_set_updated_at, queue_peek
from millhand.engine.subscription import Subscriptions

logger = logger_of(__name__)

NEVER = datetime.min.replace(tzinfo=UTC)
# So many turns of the event loop after a fetch that completed jobs, the statement that completes the next ones is sent.
NUM_TURNS_TO_NEXT = 4
# After a fetch that completed jobs has failed, as by the lock of a user's transaction that changes a limit, the completer
# completes jobs again, so that fetches do not wait.
COMPLETE_AGAIN_SECONDS = 60.0


class Producer(Service):
    """
    Fetches for one queue and owns its running attempts.

    `execute` works one attempt and gives its outcome to the completer. `on_fetched` gets the number of jobs and the
    seconds of each fetch. Neither raises. `rules` may be for the queue.
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
        locks: LockWaits | None = None,
        max_workers: int,
        poll_seconds: float,
        rules: QueueRules | None = None,
        subscriptions: Subscriptions,
        on_fetched: Callable[[int, float], None] | None = None,
    ) -> None:
        super().__init__()
        self._attempts: dict[JobId, Attempt] = {}
        self._cancelled_while_fetching: set[int] | None = None
        self._client_id = client_id
        self._completes_from = 0.0  # until then, no fetch completes jobs
        self._due_ats: list[float] = []  # a heap: when this client's jobs are due
        self._cooldown_seconds = cooldown_seconds
        self._execute = execute
        self._fetch_starts = FetchStarts(NEVER, 0.0)
        self._has_begun = False
        self._has_logged_failure = False
        self._is_wanted = True  # whether something asked for a fetch since the last one
        self._kinds = kinds
        self._last_fetch = 0.0
        self._locks = LockWaits(pool) if locks is None else locks
        self._lost = LostFetchSearch(NEVER)
        self._lost_before: datetime | None = None  # jobs of lost fetches from before belong to other clients
        self._lost_while_fetching: datetime | None = None
        self._needs_release = False  # whether by the rules no job can start until others have ended
        self._more_is_waiting = False  # whether the last fetch returned as many jobs as it asked for
        self._num_failures = 0
        self._num_slots_taken = 0
        self._num_taken_to_wake = max_workers  # a slot freed above this number does not wake the producer
        self._on_fetched = on_fetched
        self._overtaken: set[Attempt] = set()  # they still run, but their jobs were fetched here again
        self._poll_at = 0.0
        self._poll_seconds = poll_seconds
        self._pool = pool
        self._rules = QueueRules() if rules is None else rules
        self._queue_fetch = self._rules.queue_fetch(queue, kinds=kinds, running_ids=self._attempts.keys)
        self._refetch_pause = RefetchPause()
        self._size = FetchSize()
        self._subscriptions = subscriptions
        self._timed: Attempt | None = None  # the last attempt of the last full fetch
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self.is_paused = False
        self.max_workers = max_workers
        self.num_pause_notifications = 0  # of a pause or a resume
        self.queue = queue
        self.updated_at: datetime | None = None  # as this client last wrote it to the queue's row

    @property
    def name(self) -> str:
        return f"Producer({self.queue})"

    @property
    def num_running(self) -> int:
        return len(self._attempts) + len(self._overtaken)

    @property
    def running(self) -> Collection[Attempt]:
        """A snapshot of the attempts that run here; one job may have several."""
        return (*self._overtaken, *self._attempts.values())

    def holds(self, id: JobId) -> bool:
        return id in self._attempts or any(attempt.row.id == id for attempt in self._overtaken)

    async def run(self, started: Callable[[], None]) -> None:
        at = await self._begin_queue()
        self._lost = LostFetchSearch(at)
        self._fetch_starts = FetchStarts(at, asyncio.get_running_loop().time())
        self._is_wanted = True
        started()
        loop = asyncio.get_running_loop()
        self._poll_at = loop.time()
        try:
            while await self.wake_event.wait(self._wait_seconds(loop.time())) is not WakeReason.STOP:
                if loop.time() >= self._poll_at:
                    self._is_wanted = True
                if self._refetch_pause.until <= loop.time():
                    self._num_taken_to_wake = self.max_workers
                # The next fetch is sent before the new attempts run.
                while not self.wake_event.is_stopping and self._wait_seconds(loop.time()) <= 0.0:
                    await self._fetch_once()
        finally:
            self._queue_fetch.give_back()

    async def _begin_queue(self) -> datetime:
        """Create or update the queue's row, or only read it while it is locked; return the database's time."""
        try:
            row = await self._locks.run(queue_create_or_set_updated_at(self.queue))
        except Locked:  # the poller writes it later
            now, self.is_paused = await self._pool.run(queue_peek(self.queue))
            return now
        self.updated_at, self.is_paused = row.updated_at, row.is_paused
        return row.updated_at

    async def wait_idle(self) -> None:
        await self._is_idle.wait()

    # Events and requests. None of them waits.

    def begin(self) -> None:
        self._has_begun = True
        self.wake_event.set()

    def request_fetch(self) -> None:
        """Fetch soon, because a job may be available or a slot free."""
        self._is_wanted = self._queue_fetch.may_have_arrived = True
        self.wake_event.set()

    def request_admission(self) -> None:
        """Fetch soon, because by the rules the end of a job of this client lets others start."""
        self._is_wanted = True
        self.wake_event.set()

    def complete_and_fetch(self, ended: EndedJobs) -> Awaitable[list[JobId] | None] | None:
        """
        Complete jobs of the queue with the next fetch, which follows at once; see `QueueFetch.complete`.

        Return None if the caller must complete them: no fetch may come soon, or the queue has no rules that allow it.
        """
        is_fetching = self.is_running and self._has_begun and not self.wake_event.is_stopping
        if not self._queue_fetch.completes or not is_fetching or self._num_failures:
            return None
        if not ended.ids or asyncio.get_running_loop().time() < self._completes_from:
            return None
        self.wake_event.set()
        return self._queue_fetch.complete(ended)

    def retry_now(self) -> None:
        """End the pause after a failed fetch."""
        if self._num_failures:
            self._poll_at = asyncio.get_running_loop().time()
            self.wake_event.set()

    def on_due(self, seconds: float) -> None:
        """Fetch in `seconds` at the latest: a job is due then, and no notification will come."""
        due_at = asyncio.get_running_loop().time() + seconds
        heapq.heappush(self._due_ats, due_at)
        if due_at < self._poll_at:
            self._poll_at = due_at
            self.wake_event.set()

    def on_paused(self, *, is_paused: bool) -> None:
        """Stop or resume fetching after a notification; running attempts continue."""
        self.num_pause_notifications += 1
        self._set_paused(is_paused=is_paused)

    def apply_polled_pause(self, *, is_paused: bool, num_notifications: int) -> None:
        """Stop or resume fetching by the queue's row, unless a notification came after the first `num_notifications`."""
        if num_notifications == self.num_pause_notifications:
            self._set_paused(is_paused=is_paused)

    def cancel(self, id: int) -> None:
        """Cancel all attempts of a job that run here or that the current fetch returns."""
        if (attempt := self._attempts.get(JobId(id))) is not None:
            attempt.cancel(CancelReason.REMOTE)
        for overtaken in self._overtaken:
            if overtaken.row.id == id:
                overtaken.cancel(CancelReason.REMOTE)
        if self._cancelled_while_fetching is not None:
            self._cancelled_while_fetching.add(id)

    def cancel_lost(self, lost_at: datetime) -> int:
        """Cancel attempts fetched before this client was declared dead, also as they start. Return how many run now."""
        self._lost_before = self._lost_while_fetching = lost_at
        return cancel_fetched_before(lost_at, self.running)

    def cancel_all(self, reason: CancelReason) -> Collection[Attempt]:
        running = self.running
        for attempt in running:
            attempt.cancel(reason)
        return running

    def release_slot(self, attempt: Attempt) -> None:
        """Free the slot of a stuck attempt, although it still runs."""
        if attempt.has_slot:
            attempt.has_slot = False
            self._num_slots_taken -= 1
            self.request_fetch()

    # Fetching.

    def _set_paused(self, *, is_paused: bool) -> None:
        if self.is_paused is is_paused:
            return
        self.is_paused = is_paused
        kind = EventKind.QUEUE_PAUSED if is_paused else EventKind.QUEUE_RESUMED
        logger.info("queue paused" if is_paused else "queue resumed", extra={"queue": self.queue})
        self._subscriptions.distribute([Event(kind=kind, queue=self.queue)])
        self.request_fetch()

    def _num_free_slots(self) -> int:
        return self.max_workers - self._num_slots_taken

    def _wait_seconds(self, now: float) -> float:
        """Return how long to wait for the next fetch if nothing wakes the producer; 0 means now."""
        if self._queue_fetch.num_ended:
            return 0.0
        if not self._has_begun or self.is_paused:
            return self._poll_seconds
        if self._num_slots_taken > self._num_taken_to_wake and (until := self._refetch_pause.until) > now:
            return until - now
        if self._num_free_slots() <= 0 and not self._queue_fetch.is_collect_due:
            return self._poll_seconds
        if self._queue_fetch.has_available and self._num_free_slots() > 0 and not self._num_failures:
            return 0.0
        until_poll = max(self._poll_at - now, 0.0)
        if not self._is_wanted or self._num_failures:
            return until_poll
        if self._more_is_waiting and self._num_free_slots() * 2 >= self.max_workers:
            return 0.0
        return max(min(self._last_fetch + self._cooldown_seconds - now, until_poll), 0.0)

    async def _fetch_once(self) -> None:
        loop = asyncio.get_running_loop()
        self._is_wanted = False
        has_ended, began = self._queue_fetch.num_ended > 0, loop.time()
        # A fetch that completes jobs finds none that arrived, so it puts off neither a poll nor another fetch.
        if not has_ended:
            self._last_fetch = began
        if is_poll := began >= self._poll_at:
            self._queue_fetch.may_have_arrived = True
        if is_poll or not has_ended:
            self._poll_at = self._next_poll_at(began)
        self._needs_release = False
        cancelled: set[int] = set()
        self._cancelled_while_fetching = cancelled
        # A later fetch brings no job from before, unless the database's clock is set back; then each one would seem lost.
        self._lost_while_fetching = None
        lost, limit = self._lost, self._size.limit
        try:
            if lost.is_due(loop.time()):
                await self._find_lost(lost, cancelled)
            # A search may have found more jobs than there are slots.
            limit = 0 if has_ended and self.is_paused else max(min(self._num_free_slots(), limit), 0)
            if has_rules := self._obeys_rules():
                limit = self._queue_fetch.size(limit, self.max_workers)
            sent, busy = loop.time(), time.process_time()
            if has_rules:
                rows = await self._fetch_by_rules(limit)
            else:
                rows = await self._fetch(limit, sent)
        except MillhandError as error:
            if has_ended:
                self._completes_from = loop.time() + COMPLETE_AGAIN_SECONDS
                self._queue_fetch.give_back()
            self._size.record_failed(error, limit)
            lost.record_failed(error, loop.time())
            self._record_failed(error, loop.time())
        else:
            answered, busy_seconds = loop.time(), time.process_time() - busy
            self._record_answered(rows, limit, answered - began)
            num_turns = NUM_TURNS_TO_NEXT if has_ended else 1
            self._start_attempts(rows, cancelled, self._lost_while_fetching, num_turns)
            if rows and self._more_is_waiting and not has_rules:
                self._timed = self._attempts[rows[-1].id]
                self._begin_refetch_pause(len(rows), answered, answered - sent, busy_seconds)
            self.probe("fetched", len(rows))
        finally:
            self._cancelled_while_fetching = None

    def _begin_refetch_pause(
        self, num_jobs: int, now: float, fetch_seconds: float, busy_seconds: float
    ) -> None:
        """Let the next fetch wait for the attempts of a full one, if that pays."""
        pause, num_free = self._refetch_pause, self._num_free_slots()
        pause.begin(
            now, num_jobs=num_jobs, num_free=num_free, fetch_seconds=fetch_seconds, busy_seconds=busy_seconds
        )
        has_pause = pause.until > now and num_free < self._size.limit
        self._num_taken_to_wake = self._num_slots_taken - num_jobs if has_pause else self.max_workers

    def _record_answered(self, rows: Sequence[JobRow], limit: int, seconds: float) -> None:
        self._lost.record_answered(rows)
        if self._size.limit < FETCH_SIZE_MAX:
            self._size.record_answered()
        if (recheck_at := self._fetch_starts.recheck_at) is not None:
            self._poll_at = min(self._poll_at, recheck_at)
        self._record_recovered()
        if self._on_fetched is not None:
            self._on_fetched(len(rows), seconds)
        self._more_is_waiting = len(rows) == limit and not self._needs_release
        self._is_wanted |= self._more_is_waiting

    async def _fetch(self, limit: int, sent: float) -> Sequence[JobRow]:
        """Fetch from where `fetch_start.py` decides, and record the answer there."""
        starts, loop = self._fetch_starts, asyncio.get_running_loop()
        queue, client_id, kinds = self.queue, self._client_id, self._kinds
        if (asked := starts.next_starts(sent)) is not None:
            slack = starts.slack_seconds(sent)
            query = job_get_available_after(
                asked, queue=queue, limit=limit, client_id=client_id, kinds=kinds, slack_seconds=slack
            )
        else:
            query = job_get_available(queue=queue, limit=limit, client_id=client_id, kinds=kinds)
            if starts.is_count_due(sent):
                counted = await self._pool.run(job_get_available_counted(query))
                starts.record_counted(counted, limit=limit, sent=sent, answered=loop.time())
                return counted.jobs
        rows = await self._pool.run(query)
        starts.record_fetched(asked, rows, limit=limit, sent=sent, answered=loop.time())
        return rows

    def _obeys_rules(self) -> bool:
        """Return whether the next fetch obeys rules. If not, give back what is left of the time when fetches did."""
        fetch, obeys = self._queue_fetch, self.queue in self._rules.fetched_queues
        if not obeys and (fetch.num_ended or fetch.is_collect_due or fetch.has_available):
            fetch.give_back()
        return obeys

    async def _fetch_by_rules(self, limit: int) -> Sequence[JobRow]:
        fetched = await self._queue_fetch.fetch(limit)
        self._needs_release = fetched.needs_release
        self._is_wanted |= fetched.again_in_seconds == 0.0
        for seconds in (fetched.again_in_seconds, fetched.collect_in_seconds, fetched.opens_in_seconds):
            if seconds:
                self.on_due(seconds)
        return fetched.jobs

    async def _find_lost(self, lost: LostFetchSearch, cancelled: Collection[int]) -> None:
        query = job_get_lost(queue=self.queue, client_id=self._client_id, after=lost.after)
        loop = asyncio.get_running_loop()
        asked = loop.time()
        found = await self._pool.run(query)
        rows = lost.record_found(found, asked=asked, now=loop.time())
        if (seconds := lost.seconds_left(loop.time())) is not None:
            self.on_due(seconds)
        if rows:
            logger.warning("lost fetch found", extra={"queue": self.queue, "num_jobs": len(rows)})
            self._start_attempts(rows, cancelled, self._lost_before)

    def _start_attempts(
        self, rows: Sequence[JobRow], cancelled: Collection[int], lost_at: datetime | None, num_turns: int = 1
    ) -> None:
        """Start attempts some turns of the event loop later, after the next fetch was sent: the database works meanwhile."""
        attempts, started, loop = self._attempts, [], asyncio.get_running_loop()
        self._num_slots_taken += len(rows)
        if rows:
            self._is_idle.clear()
        for row in rows:
            attempt, id = Attempt(row), row.id
            earlier = attempts.setdefault(id, attempt)
            if earlier is not attempt:
                self._overtaken.add(earlier)
                attempts[id] = attempt
            if id in cancelled:
                attempt.cancel(CancelReason.REMOTE)
            started.append(attempt)
        if lost_at is not None and (num_lost := cancel_fetched_before(lost_at, started)):
            logger.warning("attempts lost", extra={"client_id": self._client_id, "num_jobs": num_lost})
        if loop.get_task_factory() is not None:  # its error must end this service, and not a callback
            num_turns = 0
        self._create_tasks(started, task_maker(loop), num_turns)

    def _create_tasks(
        self, attempts: Sequence[Attempt], create_task: Callable[[Any], asyncio.Task[None]], num_turns: int
    ) -> None:
        if num_turns:
            asyncio.get_running_loop().call_soon(self._create_tasks, attempts, create_task, num_turns - 1)
            return
        for attempt in attempts:
            attempt.task = create_task(self._work(attempt))

    async def _work(self, attempt: Attempt) -> None:
        if attempt.task is None:
            attempt.task = asyncio.current_task()  # an eager task runs before it is returned
        try:
            await self._execute(attempt)
        finally:
            self._remove(attempt)

    def _remove(self, attempt: Attempt) -> None:
        attempts, id = self._attempts, attempt.row.id
        # A job that is available again may have been fetched before this line, so the entry may be its next attempt.
        if attempts.get(id) is attempt:
            del attempts[id]
        else:
            self._overtaken.discard(attempt)
        if attempt.has_slot:
            self._num_slots_taken -= 1
        if attempt is self._timed:
            self._refetch_pause.record_ended(asyncio.get_running_loop().time())
        if self._more_is_waiting and self._num_slots_taken <= self._num_taken_to_wake:
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

    def _record_failed(self, error: MillhandError, now: float) -> None:
        self._num_failures += 1
        level = logging.DEBUG if self._has_logged_failure else level_of(error)
        self._has_logged_failure |= level == logging.WARNING
        logger.log(level, "fetch failed", extra={"queue": self.queue, **error_fields(error)})
        self._poll_at = now + min(
            backoff_seconds(self._num_failures, first=0.2, ceiling=5.0), max(self._poll_seconds, 0.2)
        )

    def _record_recovered(self) -> None:
        if self._has_logged_failure:
            self._has_logged_failure = False
            logger.info("fetch recovered", extra={"queue": self.queue, "num_failures": self._num_failures})
        self._num_failures = 0
