"""The queues that one client works: a producer and a poller for each, and what reaches them from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime

from millhand.core.config import Config, QueueConfig
from millhand.core.errors import ConfigError
from millhand.core.hooks import FetchMetric, Hook, overrides
from millhand.core.job import ClientId, JobId, JobRow, JobState
from millhand.core.log.logger import logger_of
from millhand.db.driver.protocol import Executor
from millhand.engine.attempt import Attempt, CancelReason
from millhand.engine.client_heartbeat import STATEMENT_SECONDS, QueueUse
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.error_text import error_fields, is_task_ending
from millhand.engine.lock_wait import LockWaits
from millhand.engine.notifier import parse_payload
from millhand.engine.pending_change import EndedJobs
from millhand.engine.producer import Producer
from millhand.engine.queue_poller import QueuePoller
from millhand.engine.queue_rules import QueueRules
from millhand.engine.store.job import job_get_by_ids
from millhand.engine.subscription import Subscriptions

logger = logger_of(__name__)

# The database's clock decides what is due and may be a little behind this one: a fetch too early would find nothing.
DUE_MARGIN_SECONDS = 0.002


class WorkedQueues:
    """
    Producers and pollers by queue name; `execute` works one attempt, and `rules` are for some queues.

    The engine starts and stops them. No method but `wait_idle` and `cancel_taken` waits.
    Concurrency: belongs to one event loop.
    """

    def __init__(
        self,
        config: Config,
        pool: Executor,
        *,
        client_id: ClientId,
        execute: Callable[[Attempt], Awaitable[None]],
        locks: LockWaits | None = None,
        metrics: ClientMetrics | None = None,
        rules: QueueRules | None = None,
        subscriptions: Subscriptions,
    ) -> None:
        self._client_id = client_id
        self._config = config
        self._execute = execute
        self._locks = LockWaits(pool) if locks is None else locks
        self._metrics = ClientMetrics() if metrics is None else metrics
        self._pool = pool
        self._rules = rules
        self._subscriptions = subscriptions
        self.pollers: dict[str, QueuePoller] = {}
        self.producers: dict[str, Producer] = {}

    @property
    def num_running(self) -> int:
        return sum(producer.num_running for producer in self.producers.values())

    def running(self) -> list[Attempt]:
        return [attempt for producer in self.producers.values() for attempt in producer.running]

    def is_held(self, id: JobId) -> bool:
        return any(producer.holds(id) for producer in self.producers.values())

    def names(self) -> tuple[str, ...]:
        return tuple(self.producers)

    def uses(self) -> Mapping[str, QueueUse]:
        return {
            name: QueueUse(producer.max_workers, producer.updated_at)
            for name, producer in self.producers.items()
        }

    def add(self, name: str, queue: QueueConfig) -> tuple[Producer, QueuePoller]:
        """Return the producer and the poller of one more queue, not started yet."""
        producer = self.producers[name] = self._new_producer(name, queue)
        poller = QueuePoller(producer, self._pool, locks=self._locks, is_poll_only=self._config.poll_only)
        self.pollers[name] = poller
        return producer, poller

    async def end(self, producer: Producer, poller: QueuePoller) -> None:
        """Stop fetching from a queue, wait for its attempts, and remove it."""
        await producer.stop()
        await producer.wait_idle()
        await poller.stop()
        if self.producers.get(producer.queue) is producer:  # a concurrent call may have removed it
            del self.producers[producer.queue], self.pollers[producer.queue]

    def require_other_job(self, producer: Producer, deed: str) -> None:
        """Raise ConfigError in an attempt of `producer`: waiting for the deed would wait for the attempt itself."""
        task = asyncio.current_task()
        for attempt in producer.running:
            if attempt.task is task:
                raise ConfigError(
                    f"job must not {deed} and wait for that, which waits for the job, got {attempt.row.kind!r} "
                    f"with id {attempt.row.id}; call it from the program that started the client"
                )

    # Events.

    def on_insert(self, payload: str) -> bool:
        """Fetch, and return True, if this client works the queue of a new job."""
        parsed = parse_payload(payload)
        producer = None if parsed is None else self.producers.get(str(parsed.get("queue")))
        if producer is None:
            return False
        producer.request_fetch()
        return True

    def on_control(self, payload: str) -> str | None:
        """
        Handle a notification of `river_control`: a cancel, a pause, a resume or a change of a queue's metadata.

        Return the queue whose metadata changed, if any.
        """
        parsed = parse_payload(payload)
        if parsed is None:
            return None
        name, action, id = parsed.get("queue"), parsed.get("action"), parsed.get("job_id")
        is_for_all = name == "*" and action in ("pause", "resume")
        for producer in self.producers.values():
            if producer.queue != name and not is_for_all:
                continue
            if action == "cancel" and isinstance(id, int):
                producer.cancel(id)
            elif action in ("pause", "resume"):
                producer.on_paused(is_paused=action == "pause")
            if action in ("resume", "metadata_changed") and producer.queue in self.pollers:
                self.pollers[producer.queue].touch_soon()
        return str(name) if action == "metadata_changed" else None

    def on_connected(self) -> None:
        """Fetch and poll at once: notifications may have been missed before the listener connected."""
        for producer in self.producers.values():
            producer.request_fetch()
        for poller in self.pollers.values():
            poller.wake_event.set()

    def on_available(self, row: JobRow) -> None:
        """Fetch when a job is due that this client made available again."""
        producer = self.producers.get(row.queue)
        if producer is not None:
            due_in = (row.scheduled_at - self._config.clock.now()).total_seconds()
            producer.on_due(max(due_in, 0.0) + DUE_MARGIN_SECONDS)

    def on_rules_changed(self, queue: str) -> None:
        """Fetch from a queue by its new rules."""
        if queue in self.producers:
            self.producers[queue].request_fetch()

    def on_released(self, queues: Collection[str]) -> None:
        """Fetch from queues with rules in which jobs of this client have ended."""
        for queue in queues:
            if queue in self.producers:
                self.producers[queue].request_admission()

    def complete_and_fetch(self, queue: str, ended: EndedJobs) -> Awaitable[list[JobId] | None] | None:
        """Complete jobs of a queue with rules with the next fetch of its producer, or return None if that cannot do it."""
        producer = self.producers.get(queue)
        return None if producer is None else producer.complete_and_fetch(ended)

    def on_lost(self, lost_at: datetime) -> None:
        """Cancel attempts fetched before this client was declared dead: other clients have their jobs."""
        self._log_lost(sum(producer.cancel_lost(lost_at) for producer in self.producers.values()))

    async def cancel_taken(self) -> None:
        """Cancel attempts whose jobs' rows show that another attempt has them, or that they wait for one."""
        held = self.running()
        if not held:
            return
        query = job_get_by_ids(sorted({attempt.row.id for attempt in held}))
        rows = {row.id: row for row in await self._pool.run(query.within(STATEMENT_SECONDS))}
        taken = [one for one in held if not one.is_settled and _is_taken(one.row, rows.get(one.row.id))]
        for attempt in taken:
            attempt.cancel(CancelReason.LOST)
        self._log_lost(len(taken))

    def cancel_all(self, reason: CancelReason) -> list[Attempt]:
        """Cancel the attempts that run, and return them."""
        return [attempt for producer in self.producers.values() for attempt in producer.cancel_all(reason)]

    async def wait_idle(self, timeout_seconds: float | None, until: asyncio.Event | None = None) -> bool:
        """Return whether all attempts ended within `timeout_seconds` and before `until` was set."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_seconds is None else loop.time() + timeout_seconds
        for producer in tuple(self.producers.values()):
            left = None if deadline is None else max(deadline - loop.time(), 0.0)
            if not await _wait_idle(producer, left, until):
                return False
        return True

    def _log_lost(self, num_jobs: int) -> None:
        if num_jobs:
            logger.warning("attempts lost", extra={"client_id": self._client_id, "num_jobs": num_jobs})

    def _new_producer(self, name: str, queue: QueueConfig) -> Producer:
        config = self._config
        cooldown, poll = queue.fetch_cooldown, queue.fetch_poll_interval
        return Producer(
            name,
            self._pool,
            client_id=self._client_id,
            cooldown_seconds=(cooldown or config.fetch_cooldown).total_seconds(),
            execute=self._execute,
            kinds=config.workers.kinds if config.fetch_only_known_kinds else None,
            locks=self._locks,
            max_workers=queue.max_workers,
            poll_seconds=(poll or config.fetch_poll_interval).total_seconds(),
            rules=self._rules,
            subscriptions=self._subscriptions,
            on_fetched=_fetch_recorder(name, self._metrics, config.hooks),
        )


def _fetch_recorder(
    queue: str, metrics: ClientMetrics, hooks: Sequence[Hook]
) -> Callable[[int, float], None]:
    """Return what a producer calls after a fetch with the number of jobs and seconds."""
    listening = [hook for hook in hooks if overrides(hook, "metric_emit")]

    def record(num_jobs: int, seconds: float) -> None:
        metrics.add_fetched(queue, num_jobs, seconds)
        if not listening:
            return
        metric = FetchMetric(num_jobs=num_jobs, queue=queue, seconds=seconds)
        for hook in listening:
            try:
                hook.metric_emit(metric)
            except BaseException as error:  # the fetched jobs must be worked, whatever a user's hook raises
                if is_task_ending(error):
                    raise
                logger.exception("metric hook failed", extra={"queue": queue, **error_fields(error)})

    return record


async def _wait_idle(producer: Producer, timeout_seconds: float | None, until: asyncio.Event | None) -> bool:
    waits: list[asyncio.Future[object]] = [asyncio.ensure_future(producer.wait_idle())]
    if until is not None:
        waits.append(asyncio.ensure_future(until.wait()))
    await asyncio.wait(waits, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    return not producer.num_running


def _is_taken(held: JobRow, found: JobRow | None) -> bool:
    """Return whether a job waits or runs for another attempt; a finalized job may have been so by its own attempt."""
    if found is None or found.state.is_finalized:
        return False
    return (found.state, found.attempted_at) != (JobState.RUNNING, held.attempted_at)
