"""
Starts and stops everything that one client runs to work jobs.

Rule 1: the shutdown sequence runs once; each step is logged and bounded. Only attempts are waited for without an end, if
        the caller sets no soft stop timeout.
Rule 2: a service that crashes makes the engine unusable. `wait_crashed` returns the error, and the owner stops the rest.

    stop fetching → wait for attempts → cancel them (interrupted, the attempt does not count) → wait again
    → write pending outcomes → stop the services → resign the terms → close the listener

Source: River v0.51.2, client.go `Start, Stop, StopAndCancel`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Collection, Iterable, Sequence

from millhand.core.clock import ServerClock, SystemClock
from millhand.core.config import Config, QueueConfig, StuckJob
from millhand.core.errors import ConfigError
from millhand.core.job import ClientId, JobId, JobRow
from millhand.core.log.logger import logger_of
from millhand.core.metrics.points import Points
from millhand.core.periodic import PeriodicJob
from millhand.db.driver.protocol import Driver, Executor
from millhand.engine.attempt import Attempt, CancelReason, jobs_fields
from millhand.engine.awaited_jobs import AwaitedJobs
from millhand.engine.capability import Capability, ClientContext
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.completed_retention import CompletedRetention
from millhand.engine.completer import Completer
from millhand.engine.error_handler import ErrorHandlers, LoggingErrorHandler
from millhand.engine.error_text import is_task_ending
from millhand.engine.finished import finished
from millhand.engine.gauges import read_gauges
from millhand.engine.inserter import Inserter
from millhand.engine.job_executor import JobExecutor
from millhand.engine.leadership import Leadership
from millhand.engine.lock_wait import LockWaits
from millhand.engine.loop_guard import LoopGuard
from millhand.engine.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from millhand.engine.notifier import Notifier, Topic
from millhand.engine.outage import Outage
from millhand.engine.pending_change import EndedJobs
from millhand.engine.producer import Producer
from millhand.engine.queues import WorkedQueues
from millhand.engine.registration import Registration
from millhand.engine.service import Service, request_stop, stop_all
from millhand.engine.services import (
    deletion_counters,
    end_writers_of,
    heartbeat,
    kind_watcher,
    own_rescuer,
    queue_rules_of,
    to_all,
)
from millhand.engine.store.leader import LeaderRole
from millhand.engine.subscription import Subscriptions

logger = logger_of(__name__)

# A cancelled attempt has this long to clean up. One that takes longer is left running, and its job is rescued later.
ABANDON_SECONDS = 10.0
ABANDON_REMEDY = (
    "call job.check_cancel_requested() in a long plain function; do not catch CancelledError in a coroutine"
)


class Engine:
    """
    Works jobs for one client, from `start` to `stop`; the client builds a new one for each start.

    `driver` records its results in `outage`.
    Concurrency: belongs to one event loop. `cancel_attempts` may be called while `stop` waits.
    """

    def __init__(
        self,
        config: Config,
        driver: Driver,
        capabilities: Sequence[Capability] = (),
        *,
        awaited: AwaitedJobs,
        client: object,
        client_id: ClientId,
        inserter: Inserter,
        metrics: ClientMetrics,
        outage: Outage,
        subscriptions: Subscriptions,
    ) -> None:
        if isinstance(config.clock, SystemClock):  # a custom clock is used unchanged
            config = dataclasses.replace(config, clock=ServerClock(config.clock))
        pool = driver.pool
        self._awaited = awaited
        self._capabilities = capabilities
        self._client_id = client_id
        self._config = config
        self._has_begun = False
        self._crashed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._inserter = inserter
        self._locks = LockWaits(pool, driver.pool_size)
        self._is_hard_stop = asyncio.Event()
        self._is_stopping = False
        self._metrics = metrics
        self._outage = outage
        self._registration = Registration()
        self._context = ClientContext(
            client_id=client_id,
            config=config,
            locks=self._locks,
            on_rules_changed=self._on_rules_changed,
            pool=pool,
            works=lambda queue: queue in config.queue_configs or queue in self.queues.producers,
        )
        self.rules = queue_rules_of(capabilities, self._context)
        self._retention = CompletedRetention(config)
        self._deletion_counters = deletion_counters(capabilities, pool)
        self.completer = Completer(
            pool,
            client_id,
            clock=config.clock,
            complete_and_fetch=self._complete_and_fetch,
            end_writers=end_writers_of(capabilities),
            metrics=metrics,
            on_available=self._on_available,
            on_deleted=to_all(self._deletion_counters),
            on_released=self._on_released,
            retention=self._retention,
            rules=self.rules,
            subscriptions=subscriptions,
        )
        self._executor = self._new_executor(client)
        self.queues = WorkedQueues(
            config,
            pool,
            client_id=client_id,
            execute=self._executor.execute,
            locks=self._locks,
            metrics=metrics,
            rules=self.rules,
            subscriptions=subscriptions,
        )
        self._enqueuer = PeriodicJobEnqueuer(
            inserter, config.periodic_jobs, clock=config.clock, hooks=config.hooks, metrics=metrics, pool=pool
        )
        self.leadership = self._new_leadership(pool)
        self.heartbeat = heartbeat(
            config,
            pool,
            client_id,
            self.queues,
            self._registration,
            locks=self._locks,
            on_migrated=self._on_migrated,
            on_registration=self._on_registration,
        )
        self._own_rescuer = own_rescuer(
            config, pool, client_id, self._registration, is_held=self._is_held, metrics=metrics
        )
        self._kind_watcher = kind_watcher(
            config, pool, client_id, self.queues, waiting=lambda: self.rules.waiting_jobs
        )
        self._services = [service for one in capabilities for service in one.client_services(self._context)]
        self._loop_guard = LoopGuard()
        self._notifier = self._new_notifier(driver)
        self._pool_size = driver.pool_size
        metrics.gauges = self._read_gauges

    def _new_executor(self, client: object) -> JobExecutor:
        config = self._config
        log = LoggingErrorHandler(config.clock, on_failure=self._metrics.add_error)
        return JobExecutor(
            config,
            client=client,
            handle_failure=ErrorHandlers(config.error_handlers, log).handle,
            hand_over=self.completer.hand_over,
            on_stuck=self._on_stuck,
        )

    def _new_leadership(self, pool: Executor) -> Leadership | None:
        return (
            None
            if not self._config.leader_election
            else Leadership(
                self._config,
                pool,
                self._capabilities,
                client_id=self._client_id,
                enqueuer=self._enqueuer,
                inserter=self._inserter,
                metrics=self._metrics,
                registration=self._registration,
                rules=self.rules,
            )
        )

    def _new_notifier(self, driver: Driver) -> Notifier | None:
        if self._config.poll_only:
            return None
        receivers = {
            Topic.INSERT: self._on_insert,
            Topic.CONTROL: self._on_control,
            Topic.RESULT: self._awaited.on_notification,
        }
        if self.leadership is not None:
            receivers[Topic.LEADERSHIP] = self.leadership.river.on_notification
            receivers[Topic.PERIODIC_LEADERSHIP] = self.leadership.on_periodic_notification
        return Notifier(driver, receivers, self._on_connected)

    @property
    def num_running(self) -> int:
        return self.queues.num_running

    @property
    def awaits_first_runs(self) -> bool:
        """Whether this client may yet insert the first runs of its periodic jobs, after its start."""
        leadership = self.leadership
        return leadership is not None and leadership.may_serve_periodic and self._enqueuer.awaits_first_runs

    def leads(self, leader_role: LeaderRole) -> bool:
        """Return whether this client holds a leader role, as far as it knows."""
        return self.leadership is not None and self.leadership.elector(leader_role).is_leader

    async def start(self) -> None:
        """Start all services, or raise and leave none running. Without queues only the inserter runs."""
        self._outage.open(
            self.completer.count_kept,
            late_seconds=self._loop_guard.late_seconds if self._config.queues else lambda _since: 0.0,
            wake=self._retry_now,
        )
        try:
            if self._config.queues:
                await self._start_worker()
            else:
                await self._start_all(self._inserter, self.rules.service)
        except BaseException:
            self.cancel_attempts()
            await finished(self.stop(soft_stop_seconds=0.0))
            raise

    async def _start_worker(self) -> None:
        """Start the services that may fail, then the fetches, then the services that cannot fail."""
        for name, queue in self._config.queue_configs.items():
            self.queues.add(name, queue)
        producers = self.queues.producers.values()
        await asyncio.gather(
            self._start_all(self._inserter, self.completer, self.heartbeat, *producers),
            self._start_rules(),
            self._start_all(*self._services),
        )
        await self._start_counters()
        self._has_begun = True
        self._begin(producers)
        # These start without a statement, so they do not delay the first fetch.
        await self._start_all(*self.queues.pollers.values(), *self._background_services(), *self._electors())
        await self._loop_guard.start()
        self.heartbeat.wake_event.set()

    async def wait_crashed(self) -> BaseException:
        """Return the error of a service that crashed; wait while all services are well."""
        return await asyncio.shield(self._crashed)

    def cancel_attempts(self) -> None:
        """Make a stop cancel the attempts instead of waiting for them."""
        self._is_hard_stop.set()

    async def add_queue(self, name: str, queue: QueueConfig) -> None:
        if name in self.queues.producers:
            raise ConfigError(f"queue must not be worked yet to be added, got {name!r}; remove it first")
        self._require_worker(name)
        producer, poller = self.queues.add(name, queue)
        self._retention.add_queue(name, keep_completed=queue.keep_completed)
        try:
            await self._start_counters()
            await self.rules.add_queue(name, queue)
            self._require_worker(name)  # a stop meanwhile has stopped the producer, and does not do so again
            await self._start(producer)
            if not self._is_stopping:
                await self._start(poller)
        except BaseException:
            await finished(self.queues.end(producer, poller))
            raise
        self._begin([producer])
        self.heartbeat.wake_event.set()

    def _begin(self, producers: Iterable[Producer]) -> None:
        """Let producers fetch, unless this client still waits for its row, without which no leader rescues its jobs."""
        if self.heartbeat.is_waiting:
            return
        for producer in producers:
            producer.begin()

    def _require_worker(self, name: str) -> None:
        if self._is_stopping or not self._config.queues:
            raise ConfigError(
                f"queue must be added to a client that was started with queues and is not stopping, got {name!r}"
            )

    async def remove_queue(self, name: str) -> None:
        """Stop fetching from a queue and return when its attempts have ended."""
        if name not in self.queues.producers:
            raise ConfigError(f"queue must be worked to be removed, got {name!r}")
        producer = self.queues.producers[name]
        self.queues.require_other_job(producer, "have its queue removed")
        await self.queues.end(producer, self.queues.pollers[name])

    def refuse_own_jobs(self) -> None:
        """Raise ConfigError in an attempt of this engine: a stop would wait for that attempt."""
        for producer in self.queues.producers.values():
            self.queues.require_other_job(producer, "stop its client")

    def add_periodic_job(self, job: PeriodicJob) -> None:
        """Insert `job` by its schedule while this client leads."""
        if self.leadership is None or not self._config.queues:
            raise ConfigError(
                "periodic job must be added to a client that may lead, with queues and with leader_election, "
                f"got {self._client_id!r}"
            )
        self._config.require_workers_of([job])
        self._enqueuer.add(job)

    def remove_periodic_job(self, job: PeriodicJob | str) -> None:
        """Stop inserting `job`, or the job with this id. Raises: ConfigError if there is none."""
        self._enqueuer.remove(job)

    async def stop(self, *, soft_stop_seconds: float | None) -> None:
        """Run the shutdown sequence; wait for attempts as long as `soft_stop_seconds` says, None for ever."""
        self._is_stopping = True
        await self._stop_attempts(soft_stop_seconds)
        await self._stop_services()
        self._outage.close()
        self._executor.close()
        self._metrics.gauges = tuple

    async def _stop_attempts(self, soft_stop_seconds: float | None) -> None:
        await stop_all(self.queues.producers.values())
        logger.debug("fetching stopped", extra={"running": self.num_running})
        self.completer.end_back_pressure()
        if await self.queues.wait_idle(soft_stop_seconds, until=self._is_hard_stop):
            return
        cancelled = self.queues.cancel_all(CancelReason.STOPPING)
        logger.warning("attempts cancelled", extra=jobs_fields(cancelled))
        if not await self.queues.wait_idle(ABANDON_SECONDS):
            logger.error(
                "attempts abandoned", extra={**jobs_fields(self.queues.running()), "remedy": ABANDON_REMEDY}
            )

    async def _stop_services(self) -> None:
        # Each group stops at once and is then waited for: a database that does not answer costs one timeout, not many.
        pollers, background = self.queues.pollers.values(), self._background_services()
        request_stop(self.completer, *pollers, *background)
        await self.completer.stop()
        logger.debug("completions written", extra={"num_jobs": sum(self.completer.num_by_kind.values())})
        # Last of all, because the completer still deleted jobs.
        await stop_all((*pollers, *background, *self._deletion_counters))
        if self.leadership is not None:
            logger.debug("maintenance stopped")
            request_stop(*self._electors(), self.heartbeat, self._inserter, self._notifier)
            await stop_all(self._electors())
            logger.debug("term resigned")
        await self.heartbeat.stop()
        await self._inserter.stop()
        if self.rules.service is not None:
            await self.rules.service.stop()
        if self._notifier is not None:
            await self._notifier.stop()
            logger.debug("listener closed")
        await self._loop_guard.stop()

    # Events. No handler waits.

    def _on_insert(self, payload: str) -> None:
        watcher = self._kind_watcher
        if self.queues.on_insert(payload) and watcher is not None and not watcher.is_search_soon:
            watcher.on_insert()
        if self.rules.queues:
            self.rules.on_insert(payload)

    def _on_control(self, payload: str) -> None:
        if (queue := self.queues.on_control(payload)) is not None:
            self.rules.on_queue_changed(queue)

    def _on_connected(self) -> None:
        self.queues.on_connected()
        self._awaited.on_connected()
        self.rules.on_queue_changed(None)

    def _on_rules_changed(self, queue: str) -> None:
        self._inserter.use_rules(self.rules)
        self.queues.on_rules_changed(queue)

    def _on_released(self, queues: Collection[str]) -> None:
        self.queues.on_released(queues)

    def _complete_and_fetch(self, queue: str, ended: EndedJobs) -> Awaitable[list[JobId] | None] | None:
        return self.queues.complete_and_fetch(queue, ended)

    def _on_available(self, row: JobRow) -> None:
        self.queues.on_available(row)

    def _retry_now(self) -> None:
        """End the pauses after failures: the database answers again."""
        self.completer.retry_now()
        for producer in self.queues.producers.values():
            producer.retry_now()
        if self._notifier is not None:
            self._notifier.wake_event.set()

    def _on_migrated(self) -> None:
        """Write again what this client wrote at its start: tables may have come or gone, with their rows."""
        self.rules.on_migrated()
        for callback in self._context.on_migrated:
            callback()
        for poller in self.queues.pollers.values():
            poller.touch_soon()

    def _on_registration(self) -> None:
        if self._has_begun:
            self._begin(one for one in self.queues.producers.values() if one.is_running)
        if self.leadership is not None:
            self.leadership.on_registration()

    def _on_stuck(self, attempt: Attempt) -> None:
        attempt.is_stuck, row = True, attempt.row
        num_stuck = sum(one.is_stuck for one in self.queues.running())
        fields = {"job_id": row.id, "kind": row.kind, "queue": row.queue, "attempt": row.attempt}
        logger.warning("job stuck", extra={**fields, "max_attempts": row.max_attempts, "num_jobs": num_stuck})
        handler = self._config.job_stuck_handler
        if handler is None:
            return
        try:
            wants_slot = handler(StuckJob(job=row, num_stuck=num_stuck))
        except BaseException as error:
            if is_task_ending(error):
                raise
            logger.exception("job stuck handler failed", extra=fields)
            return
        if wants_slot:
            self.queues.producers[row.queue].release_slot(attempt)

    def _on_crash(self, service: Service, error: BaseException | None) -> None:
        if not self._crashed.done():
            self._crashed.set_result(
                error or RuntimeError(f"{service.name} must run until it is stopped, got its end")
            )

    def _is_held(self, id: JobId) -> bool:
        return self.completer.is_pending(id) or self.queues.is_held(id)

    def _read_gauges(self) -> list[Points]:
        return read_gauges(
            self._client_id,
            completer=self.completer,
            executor=self._executor,
            leadership=self.leadership,
            listens=self._notifier is not None,
            clock=self._config.clock,
            outage=self._outage,
            pool_size=self._pool_size,
            queues=self.queues,
        )

    def _background_services(self) -> list[Service]:
        """Return the services that neither fetch nor write outcomes, and stop before the terms are resigned."""
        maintainers = () if self.leadership is None else self.leadership.maintainers
        watchers = [] if self._kind_watcher is None else [self._kind_watcher]
        return [*watchers, *self._services, self._own_rescuer, *maintainers]

    def _electors(self) -> list[Service]:
        return [] if self.leadership is None else [*self.leadership.electors]

    async def _start_rules(self) -> None:
        """Start the listener before the first read of the rules, so that no change is missed."""
        if self._notifier is not None:
            await self._start(self._notifier)
        if (
            self.rules.service is not None and not self._is_stopping
        ):  # another service may have failed to start
            await self._start(self.rules.service)

    async def _start_counters(self) -> None:
        if not self._retention.keeps_all:
            await self._start_all(*self._deletion_counters)

    async def _start_all(self, *services: Service | None) -> None:
        """Start services at once; raise the first error and leave the others to `stop`."""
        await asyncio.gather(*(self._start(service) for service in services if service is not None))

    async def _start(self, service: Service) -> None:
        service.on_crash = self._on_crash
        service.on_pass = self._metrics.add_pass
        await service.start()
