"""
What a capability, such as dead letters, adds to the engine. The engine knows none by its name.

Rule 1: the engine calls what is plugged in, in the order of the list that the client gives it. A capability has the hooks
        that it needs; all others add nothing.
Rule 2: a hook is called once: when a client is made, or when a term of its leader begins. What is chosen then costs a job
        nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import msgspec

from millhand.core.clock import Clock
from millhand.core.config import Config
from millhand.core.job import ClientId
from millhand.core.metrics.points import Points
from millhand.db.driver.protocol import Executor
from millhand.engine.end_writer import EndWriter
from millhand.engine.fleet import Runner
from millhand.engine.inserter import Inserter
from millhand.engine.lock_wait import LockWaits
from millhand.engine.maintenance.keeper import Keeper
from millhand.engine.pending_change import Pending
from millhand.engine.queue_rules import QueueRules
from millhand.engine.registration import Registration
from millhand.engine.service import Service
from millhand.engine.waiting_jobs import WaitingJobs

ReadPoints = Callable[[Runner], Awaitable[Sequence[Points]]]


class DeletionCounter(Service):
    """What a client runs from the first job on that it may delete when it completes. It gets each batch of them."""

    def add(self, deleted: Sequence[Pending]) -> None:
        """Add jobs that were deleted. Returns at once."""
        raise NotImplementedError(self.name)


class ClientContext(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the services of one client share.

    `works` returns whether the client works a queue. The rules of queues call `on_rules_changed`.
    The client calls all of `on_migrated` when tables may have come or gone, with their rows.
    """

    client_id: ClientId
    config: Config
    locks: LockWaits
    pool: Executor
    works: Callable[[str], bool]
    on_rules_changed: Callable[[str], None]
    on_migrated: list[Callable[[], None]] = []


class LeaderContext(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the services of one leader share.

    A service that learns of discards calls `report_discarded` with the instant of the last one, and that calls all of
    `on_discarded`. A notification of the periodic role with a word of `woken_by` wakes that service. What `read_points`
    reads is part of the fleet's metrics.
    """

    client_id: ClientId
    config: Config
    inserter: Inserter
    pool: Executor
    registration: Registration
    rules: QueueRules = msgspec.field(default_factory=QueueRules)
    waiting_jobs: WaitingJobs | None = None
    read_points: list[ReadPoints] = []
    woken_by: dict[str, Service] = {}
    on_discarded: list[Callable[[datetime | None], None]] = []

    def report_discarded(self, at: datetime | None) -> None:
        """Report the instant of the last discard to the services."""
        for callback in self.on_discarded:
            callback(at)

    @property
    def clock(self) -> Clock:
        return self.config.clock


class Capability:
    """One capability: what it adds, and where."""

    def keeper(self, config: Config) -> Keeper | None:
        """Return what says which finished jobs may not be deleted yet."""
        del config
        return None

    def end_writer(self) -> EndWriter | None:
        """Return what writes in the transaction in which a client ends jobs."""
        return None

    def queue_rules(self, client: ClientContext) -> QueueRules | None:
        """Return how a client inserts, fetches and ends jobs of some queues; also for a client that only inserts."""
        del client
        return None

    def waiting_jobs(self) -> WaitingJobs | None:
        """Return how pending jobs that wait for this capability are counted and changed."""
        return None

    def client_services(self, client: ClientContext) -> Sequence[Service]:
        """Return what a client that works jobs runs. It fetches once all of them have started."""
        del client
        return ()

    def deletion_counter(self, pool: Executor) -> DeletionCounter | None:
        """Return what counts the jobs that a client deletes when they complete."""
        del pool
        return None

    def periodic_services(self, leader: LeaderContext) -> Sequence[Service]:
        """Return what the leader of the periodic role runs, in the order in which it starts."""
        del leader
        return ()


class LateService(Service):
    """
    A service that is imported and made when it runs: where a client leads. Most clients never do.

    `make` imports it. What the owner sets of this service holds for the one that runs.
    """

    def __init__(self, name: str, make: Callable[[], Service]) -> None:
        super().__init__()
        self._make = make
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    async def run(self, started: Callable[[], None]) -> None:
        service = self._make()
        service.wake_event, service.on_pass, service.probe = self.wake_event, self.on_pass, self.probe  # type: ignore[method-assign]  # tests
        await service.run(started)
