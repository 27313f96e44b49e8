"""
Wires the two leader roles of one client: an elector for each, and the services that run during its terms.

    river      maintains River's tables: scheduler, rescuer, cleaners, reindexer
    periodic   inserts the periodic jobs and those of schedules, rescues the jobs of dead clients, deletes the rows of
               clients that are gone, writes the history, and all that capabilities add

River's role is one for clients of all languages, and its leader inserts only its own periodic jobs. Millhand therefore has
a role of its own for them, and lets clients in another language bid first for River's.

The periodic role needs the tables of line millhand. Without them the periodic services run under River's term, as River's
do. So they do in a client that has no rights on the tables, which cannot see whether others have: no periodic job at all
would be worse than one that is doubled until the rights are granted.
"""

from __future__ import annotations

from collections.abc import Sequence

from millhand.core.config import Config
from millhand.core.job import ClientId
from millhand.db.driver.protocol import Executor
from millhand.engine.capability import Capability, LeaderContext
from millhand.engine.client_metrics import ClientMetrics
from millhand.engine.elector import Elector, Term
from millhand.engine.inserter import Inserter
from millhand.engine.maintenance.maintainer import Maintainer
from millhand.engine.maintenance.periodic_job_enqueuer import PeriodicJobEnqueuer
from millhand.engine.queue_rules import QueueRules
from millhand.engine.registration import Registration
from millhand.engine.services import periodic_services, river_services, waiting_jobs_of
from millhand.engine.store.leader import LeaderRole

# A killed leader is followed when its term expires, ten seconds later at the worst. The jobs of its process wait until then.
PERIODIC_INTERVAL_SECONDS = 4.0
PERIODIC_JITTER_SECONDS = 0.5
# Twice within the lifetime: one renewal may fail.
PERIODIC_RENEW_SECONDS = 5.0
PERIODIC_TTL_SECONDS = 10.0


class Leadership:
    """
    The leader roles of one client with `leader_election`.

    The engine starts and stops `services`, calls `on_registration` when `registration.is_active` changes, and passes on the
    notifications.
    Concurrency: belongs to one event loop.
    """

    def __init__(
        self,
        config: Config,
        pool: Executor,
        capabilities: Sequence[Capability] = (),
        *,
        client_id: ClientId,
        enqueuer: PeriodicJobEnqueuer,
        inserter: Inserter,
        metrics: ClientMetrics | None = None,
        registration: Registration,
        rules: QueueRules | None = None,
    ) -> None:
        self._periodic_term: Term | None = None
        self._registration = registration
        self._river_term: Term | None = None
        self.river = Elector(
            pool,
            client_id,
            clock=config.clock,
            on_term=self._on_river_term,
            registration=registration if config.prefer_other_leaders else None,
        )
        self.periodic = Elector(
            pool,
            client_id,
            clock=config.clock,
            interval_seconds=PERIODIC_INTERVAL_SECONDS,
            is_enabled=False,  # until the first heartbeat found the tables
            jitter_seconds=PERIODIC_JITTER_SECONDS,
            leader_role=LeaderRole.PERIODIC,
            bids_on_expiry=True,
            on_term=self._on_periodic_term,
            renew_seconds=PERIODIC_RENEW_SECONDS,
            ttl_seconds=PERIODIC_TTL_SECONDS,
        )
        self._river_maintainer = Maintainer(
            river_services(
                config,
                pool,
                capabilities,
                elector=self.river,
                inserter=inserter,
                metrics=metrics,
                registration=registration,
            ),
            request_resign=self.river.request_resign,
        )
        leader = LeaderContext(
            client_id=client_id,
            config=config,
            inserter=inserter,
            pool=pool,
            registration=registration,
            rules=QueueRules() if rules is None else rules,
            waiting_jobs=waiting_jobs_of(capabilities),
        )
        self._woken_by = leader.woken_by
        self._periodic_maintainer = Maintainer(
            periodic_services(leader, capabilities, enqueuer=enqueuer, metrics=metrics),
            request_resign=self._request_resign,
            # At once: a periodic run that falls due between two terms is skipped, and jobs of dead clients wait.
            stagger_seconds=0.0,
        )

    @property
    def electors(self) -> Sequence[Elector]:
        return self.river, self.periodic

    @property
    def maintainers(self) -> Sequence[Maintainer]:
        return self._river_maintainer, self._periodic_maintainer

    def elector(self, leader_role: LeaderRole) -> Elector:
        return self.river if leader_role is LeaderRole.RIVER else self.periodic

    @property
    def may_serve_periodic(self) -> bool:
        """Whether this client runs the periodic services, or may do so after its first bid."""
        elector = self.periodic if self._registration.is_active else self.river
        return elector.is_leader or not elector.has_bid

    def on_registration(self) -> None:
        """Bid for the periodic role while this client is registered; without it, periodic services need River's term."""
        self.periodic.set_enabled(is_enabled=self._registration.is_active)
        self._assign_periodic()

    def on_periodic_notification(self, payload: str) -> None:
        """Handle a notification of the periodic role's channel: of its leader, or for one of its services."""
        for word, service in self._woken_by.items():
            if f'"{word}"' in payload:
                service.wake_event.set()
                return
        self.periodic.on_notification(payload)

    def _on_river_term(self, term: Term | None) -> None:
        self._river_term = term
        self._river_maintainer.set_term(term)
        self._assign_periodic()

    def _on_periodic_term(self, term: Term | None) -> None:
        self._periodic_term = term
        self._assign_periodic()

    def _assign_periodic(self) -> None:
        """Run the periodic services under the periodic role's term, or under River's without the tables of line millhand."""
        term = self._periodic_term if self._registration.is_active else self._river_term
        self._periodic_maintainer.set_term(term)

    def _request_resign(self, term: Term) -> None:
        """Resign the term of the periodic services, whichever role it is of."""
        for elector in self.electors:
            elector.request_resign(term)
