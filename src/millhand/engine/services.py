"""Builds the services of one client from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from millhand.core.clock import ServerClock
from millhand.core.config import Config
from millhand.core.job import ClientId, JobId
from millhand.core.worker import NO_TIMEOUT
from millhand.db.driver.protocol import Executor
from millhand.engine.capability import Capability, ClientContext, DeletionCounter, LateService, LeaderContext
from millhand.engine.client_heartbeat import ClientHeartbeat
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.elector import Elector
from millhand.engine.end_writer import EndWriter
from millhand.engine.inserter import Inserter
from millhand.engine.lock_wait import LockWaits
from millhand.engine.maintenance.cleaners import ClientCleaner, JobCleaner, QueueCleaner
from millhand.engine.maintenance.client_rescuer import ClientRescuer
from millhand.engine.maintenance.job_rescuer import JobRescuer, OwnJobRescuer
from millhand.engine.maintenance.job_scheduler import JobScheduler
from millhand.engine.maintenance.keeper import Keeper
from millhand.engine.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from millhand.engine.maintenance.reindexer import Reindexer
from millhand.engine.maintenance.step_down_watcher import StepDownWatcher
from millhand.engine.pending_change import Pending
from millhand.engine.queue_rules import QueueRules
from millhand.engine.queues import WorkedQueues
from millhand.engine.registration import Registration
from millhand.engine.service import Service
from millhand.engine.waiting_jobs import WaitingJobs

if TYPE_CHECKING:
    from millhand.engine.kind_watcher import KindWatcher


def heartbeat(
    config: Config,
    pool: Executor,
    client_id: ClientId,
    queues: WorkedQueues,
    registration: Registration,
    *,
    locks: LockWaits,
    on_migrated: Callable[[], None],
    on_registration: Callable[[], None],
) -> ClientHeartbeat:
    """Return the service that writes the client's row and follows the database's clock."""
    return ClientHeartbeat(
        pool,
        client_id,
        clock=config.clock,
        has_session=not config.poll_only,
        interval=config.client_heartbeat_interval,
        kinds=config.workers.kinds,
        locks=locks,
        on_lost=queues.on_lost,
        on_migrated=on_migrated,
        on_refused=queues.cancel_taken,
        on_registration=on_registration,
        on_time=config.clock.record_sample if isinstance(config.clock, ServerClock) else None,
        queues=queues.uses,
        registration=registration,
    )


def own_rescuer(
    config: Config,
    pool: Executor,
    client_id: ClientId,
    registration: Registration,
    *,
    is_held: Callable[[JobId], bool],
    metrics: ClientMetrics | None = None,
) -> OwnJobRescuer:
    """Return the service with which a client rescues its own jobs that no attempt works."""
    settings = _rescue_settings(config, registration)
    return OwnJobRescuer(pool, client_id=client_id, is_held=is_held, metrics=metrics, **settings)


def kind_watcher(
    config: Config,
    pool: Executor,
    client_id: ClientId,
    queues: WorkedQueues,
    *,
    waiting: Callable[[], WaitingJobs | None] = lambda: None,
) -> KindWatcher | None:
    if not config.fetch_only_known_kinds:
        return None
    # A client that only inserts does not need it.
    from millhand.engine.kind_watcher import KindWatcher  # noqa: PLC0415 - costs a tenth of all imports

    return KindWatcher(
        pool, client_id, clock=config.clock, kinds=config.workers.kinds, queues=queues.names, waiting=waiting
    )


def river_services(
    config: Config,
    pool: Executor,
    capabilities: Sequence[Capability] = (),
    *,
    elector: Elector,
    inserter: Inserter,
    metrics: ClientMetrics | None = None,
    registration: Registration,
) -> list[Service]:
    """Return what the leader of River's role runs, in the order in which it starts."""
    clock = config.clock
    services: list[Service] = [
        JobScheduler(pool, inserter, clock=clock),
        JobRescuer(pool, metrics=metrics, **_rescue_settings(config, registration)),
        JobCleaner(
            pool,
            clock=clock,
            cancelled_retention=config.cancelled_job_retention,
            completed_retention=config.completed_job_retention,
            discarded_retention=config.discarded_job_retention,
            keepers=keepers_of(capabilities, config),
        ),
        QueueCleaner(pool, clock),
    ]
    if config.reindexer_schedule is not None:
        services.append(
            Reindexer(
                pool,
                clock=clock,
                index_names=config.reindexer_index_names,
                schedule=config.reindexer_schedule,
                timeout=config.reindexer_timeout,
            )
        )
    if config.prefer_other_leaders:
        services.append(StepDownWatcher(pool, elector, clock=clock, registration=registration))
    return services


def periodic_services(
    leader: LeaderContext,
    capabilities: Sequence[Capability] = (),
    *,
    enqueuer: PeriodicJobEnqueuer,
    metrics: ClientMetrics | None = None,
) -> list[Service]:
    """Return what the leader of the periodic role runs, in the order in which it starts."""
    config, pool, clock, registration = leader.config, leader.pool, leader.clock, leader.registration
    rescuer = ClientRescuer(
        pool,
        leader.inserter,
        client_id=leader.client_id,
        clock=clock,
        metrics=metrics,
        registration=registration,
        retry_policy=config.retry_policy,
        workers=config.workers,
    )
    return [
        enqueuer,
        rescuer,
        ClientCleaner(pool, clock=clock, registration=registration),
        *leader.rules.leader_services(pool, clock),
        *(service for one in capabilities for service in one.periodic_services(leader)),
        LateService("FleetWatcher", lambda: _fleet_watcher(leader, metrics)),
    ]


def deletion_counters(capabilities: Sequence[Capability], pool: Executor) -> list[DeletionCounter]:
    """Return what counts the jobs that a client deletes when they complete."""
    return [counter for one in capabilities if (counter := one.deletion_counter(pool)) is not None]


def to_all(counters: Sequence[DeletionCounter]) -> Callable[[Sequence[Pending]], None]:
    """Return what adds deleted jobs to each counter, without a call more if there is one."""
    if len(counters) == 1:
        return counters[0].add

    def add(deleted: Sequence[Pending]) -> None:
        for counter in counters:
            counter.add(deleted)

    return add


def end_writers_of(capabilities: Sequence[Capability]) -> list[EndWriter]:
    """Return what writes in the transaction in which a client ends jobs."""
    return [writer for one in capabilities if (writer := one.end_writer()) is not None]


def queue_rules_of(capabilities: Sequence[Capability], client: ClientContext) -> QueueRules:
    """Return the rules of the capability that has some, or those of none."""
    return next(
        (rules for one in capabilities if (rules := one.queue_rules(client)) is not None), QueueRules()
    )


def waiting_jobs_of(capabilities: Sequence[Capability]) -> WaitingJobs | None:
    """Return how pending jobs are counted and changed that wait for a capability."""
    return next((jobs for one in capabilities if (jobs := one.waiting_jobs()) is not None), None)


def keepers_of(capabilities: Sequence[Capability], config: Config) -> list[Keeper]:
    """Return what says which finished jobs may not be deleted yet."""
    return [keeper for one in capabilities if (keeper := one.keeper(config)) is not None]


def _fleet_watcher(leader: LeaderContext, metrics: ClientMetrics | None) -> Service:
    from millhand.engine.maintenance.fleet_watcher import FleetWatcher  # noqa: PLC0415 - only where a client leads

    return FleetWatcher(
        leader.pool,
        clock=leader.clock,
        metrics=ClientMetrics() if metrics is None else metrics,
        more=leader.read_points,
        waiting=leader.waiting_jobs,
    )


def _rescue_settings(config: Config, registration: Registration) -> dict[str, Any]:
    return {
        "clock": config.clock,
        "job_timeout": None if config.job_timeout == NO_TIMEOUT else config.job_timeout,
        "registration": registration,
        "rescue_after": config.rescue_after,
        "retry_policy": config.retry_policy,
        "secret_keys": config.secret_keys,
        "workers": config.workers,
    }
