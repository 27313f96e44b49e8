"""
What one client does for all: the two leadership, what each of them does, and how the fleet knows of the client.

    river      who holds it sweeps River's tables: scheduler, rescuer, cleaners, reindexer
    periodic   who holds it inserts the periodic jobs, gives back the jobs of clients that are gone, and clears these away

River's leader_role is one for clients of all languages, and a leader inserts only the periodic jobs that it has itself. So
ours have an leader_role of their own, and go on whoever holds River's; and clients of other languages are let go first for
River's, so that theirs go on.

All of it needs the tables of line millhand. Without them there is only River's leader_role, and the periodic jobs are
inserted under its term, as River's are.

Concurrency: belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from millhand.clock import ServerClock
from millhand.config import Config
from millhand.driver.protocol import Driver
from millhand.job import ClientId, JobId
from millhand.maintenance.client_cleaner import ClientCleaner
from millhand.maintenance.client_rescuer import ClientRescuer
from millhand.maintenance.job_cleaner import JobCleaner
from millhand.maintenance.job_rescuer import JobRescuer, OwnJobRescuer
from millhand.maintenance.job_scheduler import JobScheduler
from millhand.maintenance.maintainer import Maintainer
from millhand.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from millhand.maintenance.queue_cleaner import QueueCleaner
from millhand.maintenance.reindexer import Reindexer
from millhand.maintenance.step_down_watcher import StepDownWatcher
from millhand.runtime.client_heartbeat import ClientHeartbeat, QueueUse
from millhand.runtime.elector import Elector, Term
from millhand.runtime.errands import Errands
from millhand.runtime.inserter import Inserter
from millhand.runtime.service import Service
from millhand.store.leader import LeaderRole
from millhand.worker import NO_TIMEOUT

# A leader of ours that is killed must be followed soon, for the jobs of its process wait for the next one: until its term
# expires, ten seconds at the worst.
PERIODIC_INTERVAL_SECONDS = 4.0
PERIODIC_JITTER_SECONDS = 0.5
# Reports renew it every four seconds.
PERIODIC_RENEW_SECONDS = 5.0
PERIODIC_TTL_SECONDS = 10.0


class Leadership:
    """
    Wires a client's report, its electors and what they lead to; `queues` is what the client works.

    `is_held` says whether it works a job, and `on_lost` is told when the client was declared dead: from what instant back.
    `on_refused` is awaited with each report that this role may not make any more.
    A client without `leader_election` reports, and holds neither leader_role. The periodic jobs are `enqueuer`'s.
    """

    def __init__(
        self,
        config: Config,
        driver: Driver,
        *,
        client_id: ClientId,
        inserter: Inserter,
        is_held: Callable[[JobId], bool],
        on_lost: Callable[[datetime], None],
        on_refused: Callable[[], Awaitable[None]],
        queues: Callable[[], Mapping[str, QueueUse]],
    ) -> None:
        self._periodic_term: Term | None = None
        self._river_term: Term | None = None
        self.enqueuer = PeriodicJobEnqueuer(
            inserter, config.periodic_jobs, clock=config.clock, hooks=config.hooks, pool=driver.pool
        )
        self.reporter = ClientHeartbeat(
            driver.pool,
            client_id,
            clock=config.clock,
            has_session=not config.poll_only,
            interval=config.client_heartbeat_interval,
            kinds=config.workers.kinds,
            on_known=self._on_known,
            on_lost=on_lost,
            on_refused=on_refused,
            on_time=clock.record_sample if isinstance(clock := config.clock, ServerClock) else _ignore_time,
            queues=queues,
        )
        self.own_rescuer = OwnJobRescuer(
            driver.pool,
            client_id=client_id,
            is_held=is_held,
            is_wanted=lambda: self.reporter.is_known,
            **_rescue_settings(config),
        )
        self.river: Elector | None = None
        self.periodic: Elector | None = None
        self._maintainers: list[Maintainer] = []
        if config.leader_election:
            self._wire(config, driver, client_id, inserter)

    @property
    def electors(self) -> list[Elector]:
        return [elector for elector in (self.river, self.periodic) if elector is not None]

    @property
    def maintainers(self) -> Sequence[Maintainer]:
        return self._maintainers

    @property
    def services(self) -> list[Service]:
        """All that is started after the reporter, in this order."""
        return [self.own_rescuer, *self._maintainers, *self.electors]

    def on_river(self, payload: str) -> None:
        """Hear what was said on `river_leadership`."""
        if self.river is not None:
            self.river.receive(payload)

    def on_periodic(self, payload: str) -> None:
        """Hear what was said on `millhand_leader`."""
        if self.periodic is not None:
            self.periodic.receive(payload)

    def _wire(self, config: Config, driver: Driver, client_id: ClientId, inserter: Inserter) -> None:
        pool, clock = driver.pool, config.clock
        self.river = river = Elector(
            pool,
            client_id,
            clock=clock,
            is_last=lambda: config.prefer_other_leaders and self.reporter.is_known,
            on_term=self._on_river_term,
        )
        self.periodic = Elector(
            pool,
            client_id,
            clock=clock,
            interval_seconds=PERIODIC_INTERVAL_SECONDS,
            is_open=False,  # until the tables are known to be there
            jitter_seconds=PERIODIC_JITTER_SECONDS,
            looks_first=True,
            leader_role=LeaderRole.PERIODIC,
            on_term=self._on_periodic_term,
            renew_seconds=PERIODIC_RENEW_SECONDS,
            ttl_seconds=PERIODIC_TTL_SECONDS,
        )
        watcher = StepDownWatcher(
            pool,
            clock=clock,
            is_wanted=lambda: config.prefer_other_leaders and self.reporter.is_known,
            step_down=river.step_down,
            standing=lambda: river.stood,
            term=lambda: river.term,
        )
        scheduler = JobScheduler(pool, inserter, clock=clock)
        self.reporter.errands = errands = Errands(
            clock=clock,
            look_ahead=scheduler.look_ahead,
            on_looked=scheduler.on_looked,
            periodic=self.periodic,
            river=river,
        )
        cleaner = ClientCleaner(pool, clock=clock, is_wanted=lambda: self.reporter.is_known)
        rescuer = ClientRescuer(
            pool,
            inserter,
            client_id=client_id,
            clock=clock,
            retry_policy=config.retry_policy,
            is_alone=lambda: errands.is_alone,
            steady_since=lambda: self.reporter.steady_since,
            workers=config.workers,
        )
        services = [scheduler, *_services(config, driver, lambda: self.reporter.is_known), watcher]
        self._maintainers = [
            Maintainer(services, request_resign=river.request_resign),
            # Without a pause: a run that falls due between two terms is not made up for, and a dead client's jobs wait.
            Maintainer(
                [self.enqueuer, rescuer, cleaner], request_resign=self._request_resign, stagger_seconds=0.0
            ),
        ]

    def _request_resign(self, term: Term) -> None:
        """Resign the term under which periodic jobs are inserted, of whichever leader_role it is."""
        for elector in self.electors:
            elector.request_resign(term)

    def _on_river_term(self, term: Term | None) -> None:
        self._river_term = term
        self._maintainers[0].set_term(term)
        self._assign()

    def _on_periodic_term(self, term: Term | None) -> None:
        self._periodic_term = term
        self._assign()

    def _on_known(self) -> None:
        if self.periodic is not None:
            self.periodic.set_open(is_open=self.reporter.is_known)
            self._assign()

    def _assign(self) -> None:
        """Have periodic jobs inserted under the term of their own leader_role, or of River's where there is no other."""
        self._maintainers[1].set_term(self._periodic_term if self.reporter.is_known else self._river_term)


def _ignore_time(at: datetime, asked: float, answered: float) -> None:
    """Leave a clock alone that somebody has brought."""


def _rescue_settings(config: Config) -> dict[str, Any]:
    return {
        "clock": config.clock,
        "job_timeout": None if config.job_timeout == NO_TIMEOUT else config.job_timeout,
        "rescue_after": config.rescue_after,
        "retry_policy": config.retry_policy,
        "workers": config.workers,
    }


def _services(config: Config, driver: Driver, is_beside_clients: Callable[[], bool]) -> list[Service]:
    """Return what River's leader does for all beside scheduling, in the order in which it is begun."""
    pool, clock = driver.pool, config.clock
    services: list[Service] = [
        JobRescuer(pool, is_beside_clients=is_beside_clients, **_rescue_settings(config)),
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
    return services
