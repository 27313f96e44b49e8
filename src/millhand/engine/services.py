"""Builds the services of one client from its configuration."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from millhand.core.archive import Archive
from millhand.core.clock import Clock, ServerClock
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.core.job import ClientId, JobId
from millhand.core.limit import QueueLimit
from millhand.core.worker import NO_TIMEOUT
from millhand.db.driver.protocol import Executor
from millhand.engine.client_heartbeat import ClientHeartbeat
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.elector import Elector
from millhand.engine.inserter import Inserter
from millhand.engine.lock_wait import LockWaits
from millhand.engine.maintenance.cleaners import ClientCleaner, JobCleaner, QueueCleaner
from millhand.engine.maintenance.client_rescuer import ClientRescuer
from millhand.engine.maintenance.flow_maintainer import FlowMaintainer
from millhand.engine.maintenance.job_rescuer import JobRescuer, OwnJobRescuer
from millhand.engine.maintenance.job_scheduler import JobScheduler
from millhand.engine.maintenance.limit_maintainer import LimitMaintainer
from millhand.engine.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from millhand.engine.maintenance.reindexer import Reindexer
from millhand.engine.maintenance.schedule_runner import ScheduleRunner
from millhand.engine.maintenance.step_down_watcher import StepDownWatcher
from millhand.engine.queues import WorkedQueues
from millhand.engine.registration import Registration
from millhand.engine.service import Service

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
    has_limits: Callable[[], bool] = bool,
) -> KindWatcher | None:
    if not config.fetch_only_known_kinds:
        return None
    # A client that only inserts does not need it.
    from millhand.engine.kind_watcher import KindWatcher  # noqa: PLC0415 - costs a tenth of all imports

    return KindWatcher(
        pool,
        client_id,
        clock=config.clock,
        has_limits=has_limits,
        kinds=config.workers.kinds,
        queues=queues.names,
    )


def river_services(
    config: Config,
    pool: Executor,
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
            keeps_dead_jobs=config.dead_job_retention != timedelta(0),
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
    config: Config,
    pool: Executor,
    *,
    client_id: ClientId,
    enqueuer: PeriodicJobEnqueuer,
    inserter: Inserter,
    limits: Callable[[], Mapping[str, QueueLimit]],
    metrics: ClientMetrics | None = None,
    registration: Registration,
) -> list[Service]:
    """Return what the leader of the periodic role runs, in the order in which it starts."""
    clock = config.clock
    rescuer = ClientRescuer(
        pool,
        inserter,
        client_id=client_id,
        clock=clock,
        metrics=metrics,
        registration=registration,
        retry_policy=config.retry_policy,
        workers=config.workers,
    )
    cleaner = ClientCleaner(pool, clock=clock, registration=registration)
    copier = DeadJobCopierOfLeader(
        pool, clock=clock, registration=registration, retention=config.dead_job_retention
    )
    history = HistoryOfLeader(
        pool, clock=clock, client_id=client_id, on_discarded=copier.on_discarded, registration=registration
    )
    watcher = FleetWatcherOfLeader(pool, clock=clock, metrics=ClientMetrics() if metrics is None else metrics)
    maintainer = LimitMaintainer(pool, clock=clock, limits=limits)
    flows = FlowMaintainer(pool, clock=clock)
    runner = ScheduleRunner(
        pool, inserter, default_max_attempts=config.max_attempts, monotonic=clock.monotonic
    )
    services: list[Service] = [
        enqueuer,
        runner,
        rescuer,
        cleaner,
        maintainer,
        flows,
        copier,
        history,
        watcher,
    ]
    if config.archive is not None:
        services.append(
            JobArchiverOfLeader(pool, archive=config.archive, clock=clock, registration=registration)
        )
    return services


class HistoryOfLeader(Service):
    """The history's writer, imported only where a client leads: it would be a tenth of the imports of every start."""

    def __init__(
        self,
        pool: Executor,
        *,
        clock: Clock,
        client_id: ClientId,
        on_discarded: Callable[[datetime | None], None],
        registration: Registration,
    ) -> None:
        super().__init__()
        self._client_id = client_id
        self._clock = clock
        self._on_discarded = on_discarded
        self._pool = pool
        self._registration = registration

    @property
    def name(self) -> str:
        return "HistoryWriter"

    async def run(self, started: Callable[[], None]) -> None:
        from millhand.engine.maintenance.history_writer import HistoryWriter  # noqa: PLC0415 - see above

        writer = HistoryWriter(
            self._pool,
            clock=self._clock,
            holder=self._client_id,
            on_discarded=self._on_discarded,
            registration=self._registration,
        )
        writer.wake_event, writer.on_pass = self.wake_event, self.on_pass
        await writer.run(started)


class DeadJobCopierOfLeader(Service):
    """The copier of dead letters, imported only where a client leads, as the history's writer."""

    def __init__(
        self, pool: Executor, *, clock: Clock, registration: Registration, retention: timedelta | None
    ) -> None:
        super().__init__()
        self._clock = clock
        self._discarded_at: datetime | None = None
        self._pool = pool
        self._registration = registration
        self._retention = retention

    @property
    def name(self) -> str:
        return "DeadJobCopier"

    def on_discarded(self, at: datetime | None) -> None:
        """Copy soon, if this is the instant of a discard that was not known before."""
        if at is not None and at != self._discarded_at:
            self.wake_event.set()
        self._discarded_at = at

    async def run(self, started: Callable[[], None]) -> None:
        from millhand.engine.maintenance.dead_job_copier import DeadJobCopier  # noqa: PLC0415 - as above

        copier = DeadJobCopier(
            self._pool, clock=self._clock, registration=self._registration, retention=self._retention
        )
        copier.wake_event, copier.on_pass, copier.probe = self.wake_event, self.on_pass, self.probe  # type: ignore[method-assign]  # tests
        await copier.run(started)


class JobArchiverOfLeader(Service):
    """
    The archiver, imported only where a client leads, as the history's writer.

    Raises: ConfigError if the archive needs DuckDB, which is not installed.
    """

    def __init__(self, pool: Executor, *, archive: Archive, clock: Clock, registration: Registration) -> None:
        super().__init__()
        if archive.format == "parquet" and importlib.util.find_spec("duckdb") is None:
            raise ConfigError(
                "archive.format 'parquet' needs duckdb, which is not installed; run: pip install 'millhand[inventory]', "
                "or set format to 'jsonl'"
            )
        self._archive = archive
        self._clock = clock
        self._pool = pool
        self._registration = registration

    @property
    def name(self) -> str:
        return "JobArchiver"

    async def run(self, started: Callable[[], None]) -> None:
        from millhand.engine.maintenance.job_archiver import JobArchiver  # noqa: PLC0415 - as above

        archiver = JobArchiver(
            self._pool, archive=self._archive, clock=self._clock, registration=self._registration
        )
        archiver.wake_event, archiver.on_pass, archiver.probe = self.wake_event, self.on_pass, self.probe  # type: ignore[method-assign]  # tests
        await archiver.run(started)


class FleetWatcherOfLeader(Service):
    """The watcher of the fleet, imported only where a client leads, as the history's writer."""

    def __init__(self, pool: Executor, *, clock: Clock, metrics: ClientMetrics) -> None:
        super().__init__()
        self._clock = clock
        self._metrics = metrics
        self._pool = pool

    @property
    def name(self) -> str:
        return "FleetWatcher"

    async def run(self, started: Callable[[], None]) -> None:
        from millhand.engine.maintenance.fleet_watcher import FleetWatcher  # noqa: PLC0415 - see above
        from millhand.orphans.report.orphan_points import read_orphan_points  # noqa: PLC0415 - as above

        watcher = FleetWatcher(
            self._pool, clock=self._clock, metrics=self._metrics, more=[read_orphan_points]
        )
        watcher.wake_event, watcher.on_pass = self.wake_event, self.on_pass
        await watcher.run(started)


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
