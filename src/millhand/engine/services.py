"""Builds the services of one client from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from millhand.config import Config
from millhand.driver.protocol import Executor
from millhand.job import ClientId, JobId
from millhand.maintenance.client_cleaner import ClientCleaner
from millhand.maintenance.client_rescuer import ClientRescuer
from millhand.maintenance.job_cleaner import JobCleaner
from millhand.maintenance.job_rescuer import JobRescuer, OwnJobRescuer
from millhand.maintenance.job_scheduler import JobScheduler
from millhand.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from millhand.maintenance.queue_cleaner import QueueCleaner
from millhand.maintenance.reindexer import Reindexer
from millhand.maintenance.step_down_watcher import StepDownWatcher
from millhand.runtime.elector import Elector
from millhand.runtime.inserter import Inserter
from millhand.runtime.kind_watcher import KindWatcher
from millhand.runtime.registration import Registration
from millhand.runtime.service import Service
from millhand.worker import NO_TIMEOUT


def own_rescuer(
    config: Config,
    pool: Executor,
    *,
    client_id: ClientId,
    is_held: Callable[[JobId], bool],
    registration: Registration,
) -> OwnJobRescuer:
    """Return the service with which a client rescues its own jobs that no attempt works."""
    settings = _rescue_settings(config, registration)
    return OwnJobRescuer(pool, client_id=client_id, is_held=is_held, **settings)


def kind_watcher(
    config: Config, pool: Executor, client_id: ClientId, queues: Callable[[], Sequence[str]]
) -> KindWatcher | None:
    """Return the service that logs unknown kinds; None for a client that fetches all kinds."""
    if not config.fetch_only_known_kinds:
        return None
    return KindWatcher(pool, client_id, clock=config.clock, kinds=config.workers.kinds, queues=queues)


def river_services(
    config: Config, pool: Executor, *, elector: Elector, inserter: Inserter, registration: Registration
) -> list[Service]:
    """Return what the leader of River's role runs, in the order in which it starts."""
    clock = config.clock
    services: list[Service] = [
        JobScheduler(pool, inserter, clock=clock),
        JobRescuer(pool, **_rescue_settings(config, registration)),
        JobCleaner(
            pool,
            clock=clock,
            cancelled_retention=config.cancelled_job_retention,
            completed_retention=config.completed_job_retention,
            discarded_retention=config.discarded_job_retention,
        ),
        QueueCleaner(pool, clock=clock),
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
    config: Config,
    pool: Executor,
    *,
    client_id: ClientId,
    enqueuer: PeriodicJobEnqueuer,
    inserter: Inserter,
    registration: Registration,
) -> list[Service]:
    """Return what the leader of the periodic role runs, in the order in which it starts."""
    clock = config.clock
    rescuer = ClientRescuer(
        pool,
        inserter,
        client_id=client_id,
        clock=clock,
        registration=registration,
        retry_policy=config.retry_policy,
        workers=config.workers,
    )
    return [enqueuer, rescuer, ClientCleaner(pool, clock=clock, registration=registration)]


def _rescue_settings(config: Config, registration: Registration) -> dict[str, Any]:
    return {
        "clock": config.clock,
        "job_timeout": None if config.job_timeout == NO_TIMEOUT else config.job_timeout,
        "registration": registration,
        "rescue_after": config.rescue_after,
        "retry_policy": config.retry_policy,
        "workers": config.workers,
    }
