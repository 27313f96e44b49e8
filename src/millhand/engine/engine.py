"""
The engine of one client that works jobs: its services, in the order in which they start and stop.

Rule 1: each rung of the ladder is climbed down once, is written to the log, and has an end: nothing waits for ever but
        what the caller wants waited for (attempts, when there is no soft stop timeout).
Rule 2: a service that crashes ends the engine. It is told to `wait_crashed`, and the owner stops the rest.

    stop fetching → wait for attempts → cancel them (they are interrupted, the attempt not counted) → wait again
    → write what is pending → stop the services → resign the term → close the listener

Source: River v0.51.2, client.go `Start, Stop, StopAndCancel`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterable, Mapping
from datetime import datetime

from millhand.clock import ServerClock, SystemClock
from millhand.config import Config, QueueConfig, StuckJob
from millhand.driver.protocol import Driver
from millhand.engine.leadership import Leadership
from millhand.errors import ConfigError
from millhand.job import ClientId, JobId, JobRow, JobState
from millhand.observe.error_handler import ErrorHandlers, LoggingErrorHandler
from millhand.periodic import PeriodicJob
from millhand.runtime.attempt import Attempt, CancelReason
from millhand.runtime.client_heartbeat import STATEMENT_SECONDS, QueueUse
from millhand.runtime.completer import Completer
from millhand.runtime.failure import is_from_outside
from millhand.runtime.fetch_listener import fetch_listener
from millhand.runtime.inserter import Inserter
from millhand.runtime.job_executor import JobExecutor
from millhand.runtime.kind_watcher import KindWatcher
from millhand.runtime.notifier import Notifier, Topic, parse_payload
from millhand.runtime.outage import Outage
from millhand.runtime.outage_driver import OutageDriver
from millhand.runtime.producer import Producer
from millhand.runtime.queue_poller import QueuePoller
from millhand.runtime.service import Service
from millhand.runtime.subscription import Subscriptions
from millhand.store.job import job_get_by_ids

logger = logging.getLogger(__name__)

# What a cancelled attempt is given to clean up. One that takes longer is left running, for the rescuer: a process that
# is told to stop must stop.
ABANDON_SECONDS = 10.0

# The database's clock decides what is due, and may be a little behind ours; a fetch too early would find nothing.
DUE_MARGIN_SECONDS = 0.002


class Engine:
    """
    Works jobs for one client, from `start` to `stop`; made anew for each start.

    Concurrency: belongs to one event loop. `cancel_attempts` may be called while `stop` is waiting.
    """

    def __init__(
        self,
        config: Config,
        driver: Driver,
        *,
        client: object,
        client_id: ClientId,
        inserter: Inserter,
        subscriptions: Subscriptions,
    ) -> None:
        if isinstance(config.clock, SystemClock):  # a clock of somebody's own is his affair
            config = dataclasses.replace(config, clock=ServerClock(config.clock))
        self._client_id = client_id
        self._config = config
        self._crashed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._is_hard_stop = asyncio.Event()
        self._is_stopping = False
        self._inserter = inserter
        self._num_stuck = 0
        self._subscriptions = subscriptions
        self._outage = Outage(lambda: self.completer.num_kept)
        self._unwatched_pool = driver.pool
        driver = self._driver = OutageDriver(driver, self._outage)
        pool = driver.pool
        self.completer = Completer(
            pool,
            client_id,
            clock=config.clock,
            on_available=self._on_available,
            subscriptions=subscriptions,
        )
        self._executor = JobExecutor(
            config,
            client=client,
            hand_over=self.completer.hand_over,
            handle_failure=ErrorHandlers(config.error_handlers, LoggingErrorHandler(config.clock)).handle,
            on_stuck=self._on_stuck,
        )
        self.producers: dict[str, Producer] = {}
        self._pollers: dict[str, QueuePoller] = {}
        self.leadership = Leadership(
            config,
            driver,
            client_id=client_id,
            inserter=inserter,
            is_held=self._is_held,
            on_lost=self._on_lost,
            on_refused=self._cancel_taken,
            queues=self._queue_uses,
        )
        self._kind_watcher: KindWatcher | None = None
        self._notifier: Notifier | None = None
        if config.fetch_only_known_kinds:
            self._kind_watcher = KindWatcher(
                pool,
                client_id,
                clock=config.clock,
                kinds=config.workers.kinds,
                queues=lambda: tuple(self.producers),
            )
        if not config.poll_only:
            receivers = {
                Topic.INSERT: self._on_insert,
                Topic.CONTROL: self._on_control,
                Topic.LEADERSHIP: self.leadership.on_river,
                Topic.PERIODIC_LEADERSHIP: self.leadership.on_periodic,
            }
            self._notifier = Notifier(driver, receivers, self._on_connected)

    @property
    def num_running(self) -> int:
        """How many attempts run now."""
        return sum(producer.num_running for producer in self.producers.values())

    async def start(self) -> None:
        """Start everything, or raise why not and leave nothing running. Without queues there is only the inserter."""
        self._inserter.speak_by(self._driver.pool)
        try:
            if self._config.queues:
                await self._start_worker()
            else:
                await self._start(self._inserter)
        except BaseException:
            self.cancel_attempts()
            await self.stop(soft_stop_seconds=0.0)
            raise

    async def _start_worker(self) -> None:
        """Start all that asks the database before it is up, at once; then fetch; then start what looks after others."""
        for name, queue in self._config.queue_configs.items():
            self._new_queue(name, queue)
        await self._start_all(
            self._inserter, self.completer, self._notifier, self.leadership.reporter, *self.producers.values()
        )
        for producer in self.producers.values():
            producer.begin()
        # Up without having asked for anything, so none of it fails; and its first statements wait for the first fetch.
        await self._start_all(*self._pollers.values(), self._kind_watcher, *self.leadership.services)
        self.leadership.reporter.wake_event.set()

    async def wait_crashed(self) -> BaseException:
        """Return what a service crashed of; wait for ever while all are well."""
        return await asyncio.shield(self._crashed)

    def cancel_attempts(self) -> None:
        """Make a stop hard: attempts are not waited for any longer but cancelled."""
        self._is_hard_stop.set()

    async def add_queue(self, name: str, queue: QueueConfig) -> None:
        """Begin to work one more queue."""
        if name in self.producers:
            raise ConfigError(f"queue must not be worked yet to be added, got {name!r}; remove it first")
        if self._is_stopping or not self._config.queues:
            raise ConfigError(
                f"queue must be added to a client that was started with queues and is not stopping, got {name!r}"
            )
        producer, poller = self._new_queue(name, queue)
        try:
            await self._start(producer)
            if not self._is_stopping:
                await self._start(poller)
        except BaseException:
            await self._end_queue(producer, poller)
            raise
        producer.begin()
        self.leadership.reporter.wake_event.set()

    async def remove_queue(self, name: str) -> None:
        """Stop fetching from a queue and return when its attempts have ended."""
        if name not in self.producers:
            raise ConfigError(f"queue must be worked to be removed, got {name!r}")
        self._refuse_own_job(self.producers[name], "have its queue removed")
        await self._end_queue(self.producers[name], self._pollers[name])

    async def _end_queue(self, producer: Producer, poller: QueuePoller) -> None:
        await producer.stop()
        await producer.wait_idle()
        await poller.stop()
        if self.producers.get(producer.queue) is producer:  # and not removed by somebody else meanwhile
            del self.producers[producer.queue], self._pollers[producer.queue]

    def refuse_own_jobs(self) -> None:
        """Raise ConfigError in an attempt of this engine: a stop that it waits for would wait for the attempt."""
        for producer in self.producers.values():
            self._refuse_own_job(producer, "stop its client")

    def _refuse_own_job(self, producer: Producer, deed: str) -> None:
        task = asyncio.current_task()
        for attempt in producer.running:
            if attempt.task is task:
                raise ConfigError(
                    f"job must not {deed} and wait for that, which waits for the job, got {attempt.row.kind!r} "
                    f"with id {attempt.row.id}; tell the program that started the client"
                )

    def add_periodic_job(self, job: PeriodicJob) -> None:
        """Have a job inserted while this client leads."""
        if self.leadership.periodic is None or not self._config.queues:
            raise ConfigError(
                "periodic job must be added to a client that may lead, with queues and with leader_election, "
                f"got {self._client_id!r}"
            )
        self.leadership.enqueuer.add(job)

    # The ladder.

    async def stop(self, *, soft_stop_seconds: float | None) -> None:
        """Climb down, rung by rung. `soft_stop_seconds` None waits for attempts without end, 0 not at all."""
        self._is_stopping = True
        await _stop_all(self.producers.values())
        logger.debug("fetching stopped", extra={"running": self.num_running})
        self.completer.hold_up_nobody()
        if not await self._wait_idle(soft_stop_seconds, until=self._is_hard_stop):
            num_jobs = sum(producer.cancel_all(CancelReason.STOPPING) for producer in self.producers.values())
            logger.warning("attempts cancelled", extra={"num_jobs": num_jobs})
            if not await self._wait_idle(ABANDON_SECONDS):
                logger.error("attempts abandoned", extra={"num_jobs": self.num_running})
        leadership = self.leadership
        _tell_to_stop(
            self.completer,
            *self._pollers.values(),
            self._kind_watcher,
            leadership.own_rescuer,
            *leadership.maintainers,
        )
        await self.completer.stop()
        logger.debug("completions written", extra={"num_jobs": sum(self.completer.num_by_kind.values())})
        await _stop_all(self._pollers.values())
        if self._kind_watcher is not None:
            await self._kind_watcher.stop()
        await leadership.own_rescuer.stop()
        if leadership.electors:
            await _stop_all(leadership.maintainers)
            logger.debug("maintenance stopped")
            _tell_to_stop(*leadership.electors, leadership.reporter, self._inserter, self._notifier)
            await _stop_all(leadership.electors)
            logger.debug("term resigned")
        await leadership.reporter.stop()
        await self._inserter.stop()
        if self._notifier is not None:
            await self._notifier.stop()
            logger.debug("listener closed")
        self._inserter.speak_by(self._unwatched_pool)
        self._outage.close()
        self._executor.close()

    async def _wait_idle(self, timeout_seconds: float | None, until: asyncio.Event | None = None) -> bool:
        """Wait for all attempts to end, `timeout_seconds` at most, and not longer than `until` is set."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_seconds is None else loop.time() + timeout_seconds
        for producer in tuple(self.producers.values()):
            waits: list[asyncio.Future[object]] = [asyncio.ensure_future(producer.wait_idle())]
            if until is not None:
                waits.append(asyncio.ensure_future(until.wait()))
            left = None if deadline is None else max(deadline - loop.time(), 0.0)
            await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
            if producer.num_running:
                return False
        return True

    # What is heard, and who is told. None of it waits.

    def _on_insert(self, payload: str) -> None:
        parsed = parse_payload(payload)
        producer = None if parsed is None else self.producers.get(str(parsed.get("queue")))
        if producer is not None:
            producer.on_insert()

    def _on_control(self, payload: str) -> None:
        parsed = parse_payload(payload)
        if parsed is None:
            return
        name, action, id = parsed.get("queue"), parsed.get("action"), parsed.get("job_id")
        everybody = name == "*" and action in ("pause", "resume")
        for producer in self.producers.values():
            if producer.queue != name and not everybody:
                continue
            if action == "cancel" and isinstance(id, int):
                producer.cancel(id)
            elif action in ("pause", "resume"):
                producer.on_paused(is_paused=action == "pause")
            if action in ("resume", "metadata_changed") and producer.queue in self._pollers:
                self._pollers[producer.queue].touch_soon()

    def _on_available(self, row: JobRow) -> None:
        producer = self.producers.get(row.queue)
        if producer is not None:
            due_in = (row.scheduled_at - self._config.clock.now()).total_seconds()
            producer.on_due(max(due_in, 0.0) + DUE_MARGIN_SECONDS)

    def _on_connected(self) -> None:
        for producer in self.producers.values():
            producer.on_insert()
        for poller in self._pollers.values():
            poller.wake_event.set()

    def _on_stuck(self, attempt: Attempt) -> None:
        attempt.is_stuck = True
        self._num_stuck = sum(a.is_stuck for producer in self.producers.values() for a in producer.running)
        row = attempt.row
        fields = {"job_id": row.id, "kind": row.kind, "queue": row.queue, "attempt": row.attempt}
        logger.warning(
            "job stuck", extra={**fields, "max_attempts": row.max_attempts, "num_jobs": self._num_stuck}
        )
        handler = self._config.job_stuck_handler
        if handler is None:
            return
        try:
            wants_slot = handler(StuckJob(job=row, num_stuck=self._num_stuck))
        except BaseException as error:
            if is_from_outside(error):
                raise
            logger.exception("job stuck handler failed", extra=fields)
            return
        if wants_slot:
            self.producers[row.queue].release_slot(attempt)

    def _on_lost(self, lost_at: datetime) -> None:
        self._tell_lost(sum(producer.cancel_lost(lost_at) for producer in self.producers.values()))

    async def _cancel_taken(self) -> None:
        """Cancel attempts at jobs that others were given, as the jobs' rows tell: no report of ours does."""
        held = [attempt for producer in self.producers.values() for attempt in producer.running]
        if not held:
            return
        query = job_get_by_ids(sorted({attempt.row.id for attempt in held}))
        rows = {row.id: row for row in await self._driver.pool.run(query.within(STATEMENT_SECONDS))}
        taken = [one for one in held if not one.is_settled and _is_taken(one.row, rows.get(one.row.id))]
        for attempt in taken:
            attempt.cancel(CancelReason.LOST)
        self._tell_lost(len(taken))

    def _tell_lost(self, num_jobs: int) -> None:
        if num_jobs:
            logger.warning("attempts lost", extra={"client_id": self._client_id, "num_jobs": num_jobs})

    def _is_held(self, id: JobId) -> bool:
        return self.completer.is_pending(id) or any(one.holds(id) for one in self.producers.values())

    def _on_crash(self, service: Service, error: BaseException | None) -> None:
        if not self._crashed.done():
            self._crashed.set_result(
                error or RuntimeError(f"{service.name} must run until it is stopped, got its end")
            )

    # Wiring.

    async def _start_all(self, *services: Service | None) -> None:
        """Start services at once; raise what is raised first, and leave the others to `stop`."""
        await asyncio.gather(*(self._start(service) for service in services if service is not None))

    async def _start(self, service: Service) -> None:
        service.on_crash = self._on_crash
        await service.start()

    def _new_queue(self, name: str, queue: QueueConfig) -> tuple[Producer, QueuePoller]:
        producer = self.producers[name] = self._producer(name, queue)
        poller = QueuePoller(producer, self._driver.pool, is_poll_only=self._config.poll_only)
        self._pollers[name] = poller
        return producer, poller

    def _queue_uses(self) -> Mapping[str, QueueUse]:
        return {
            name: QueueUse(producer.max_workers, producer.touched_at)
            for name, producer in self.producers.items()
        }

    def _producer(self, name: str, queue: QueueConfig) -> Producer:
        config = self._config
        cooldown, poll = queue.fetch_cooldown, queue.fetch_poll_interval
        return Producer(
            name,
            self._driver.pool,
            client_id=self._client_id,
            cooldown_seconds=(cooldown or config.fetch_cooldown).total_seconds(),
            execute=self._executor.execute,
            kinds=config.workers.kinds if config.fetch_only_known_kinds else None,
            max_workers=queue.max_workers,
            poll_seconds=(poll or config.fetch_poll_interval).total_seconds(),
            subscriptions=self._subscriptions,
            on_fetched=fetch_listener(name, config.hooks),
        )


def _is_taken(held: JobRow, found: JobRow | None) -> bool:
    """Return whether a job waits, or runs for another attempt; one that is finalized may have been so by its own attempt."""
    if found is None or found.state.is_finalized:
        return False
    return (found.state, found.attempted_at) != (JobState.RUNNING, held.attempted_at)


def _tell_to_stop(*services: Service | None) -> None:
    """Have services end that are then waited for in order: a database that is silent costs one deadline for all."""
    for service in services:
        if service is not None:
            service.wake_event.stop()


async def _stop_all(services: Iterable[Service]) -> None:
    async with asyncio.TaskGroup() as group:
        for service in list(services):
            group.create_task(service.stop())
