"""What a capability adds to the engine, and what it need not say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from factory import NOW
from millhand.core.config import Config
from millhand.core.job import ClientId
from millhand.db.driver.protocol import Executor
from millhand.engine.capability import Capability, DeletionCounter, LateService, LeaderContext
from millhand.engine.inserter import Inserter
from millhand.engine.pending_change import Pending
from millhand.engine.registration import Registration
from millhand.engine.service import Service, WakeReason
from millhand.engine.services import deletion_counters, keepers_of, to_all, waiting_jobs_of


class Ran(Service):
    """A service that runs until it is stopped, and reports each wake."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        Ran.made += 1

    async def run(self, started: Callable[[], None]) -> None:
        started()
        while await self.wake_event.wait(None) is not WakeReason.STOP:
            self.probe("woken")


class Counted(DeletionCounter):
    """Keeps each batch that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Sequence[Pending]] = []

    def add(self, deleted: Sequence[Pending]) -> None:
        self.batches.append(deleted)


class Counting(Capability):
    """Counts deleted jobs."""

    def deletion_counter(self, pool: Executor) -> DeletionCounter:
        return Counted()


def leader_of(pool: Executor) -> LeaderContext:
    return LeaderContext(
        client_id=ClientId("me"),
        config=Config(),
        inserter=Inserter(pool, Config()),
        pool=pool,
        registration=Registration(),
    )


def test_capability_without_hooks_adds_nothing(tx: Executor) -> None:
    """Each hook has a default: no service, no keeper, no counter."""
    nothing = [Capability()]

    assert waiting_jobs_of(nothing) is None
    assert list(nothing[0].periodic_services(leader_of(tx))) == []
    assert (keepers_of(nothing, Config()), deletion_counters(nothing, tx)) == ([], [])


async def test_late_service_is_made_when_it_runs(tx: Executor) -> None:
    """It has its name before; a wake and a stop of it reach the service that runs."""
    Ran.made = 0
    late = LateService("Ran", Ran)
    made = [Ran.made]
    woken = asyncio.Event()
    late.probe = lambda _moment, _value=None: woken.set()  # type: ignore[method-assign]

    await late.start()
    made.append(Ran.made)
    late.wake_event.set()
    await woken.wait()
    await late.stop()

    assert (late.name, made) == ("Ran", [0, 1])


def test_each_counter_gets_each_batch(tx: Executor) -> None:
    """One counter is called itself; of several, each gets the batch."""
    counters = deletion_counters([Counting(), Capability(), Counting()], tx)

    to_all(counters)([])
    to_all(counters[:1])([])

    assert [len(one.batches) for one in counters if isinstance(one, Counted)] == [2, 1]
    assert to_all(counters[:1]) == counters[0].add


def test_discard_is_reported_to_all(tx: Executor) -> None:
    """Each service that asked gets the instant of the last discard."""
    leader, known = leader_of(tx), []
    leader.on_discarded.extend([known.append, known.append])

    leader.report_discarded(NOW)

    assert known == [NOW, NOW]
