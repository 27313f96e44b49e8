"""The services of a leader start and stop with its term."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest

from factory import GENEROUS_SECONDS, NOW
from millhand.core.clock import SystemClock
from millhand.core.job import ClientId
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.elector import Elector, Term
from millhand.engine.maintenance.maintainer import Maintainer
from millhand.engine.service import Service, WakeReason
from millhand.testing import Probe

FIRST = Term(ClientId("a"), datetime(2024, 5, 1, tzinfo=UTC))
SECOND = Term(ClientId("a"), NOW)


class Mute(Exception):
    """An error whose text raises."""

    def __str__(self) -> str:
        raise LookupError


class FakeService(Service):
    """Waits until stopped; fails to start, or crashes, as often as given."""

    def __init__(self, *, num_bad_starts: int = 0, error: Exception | None = None) -> None:
        super().__init__()
        self.error = ZeroDivisionError("bad start") if error is None else error
        self.num_bad_starts = num_bad_starts
        self.num_starts = 0

    async def run(self, started: Callable[[], None]) -> None:
        self.num_starts += 1
        if self.num_starts <= self.num_bad_starts:
            raise self.error
        started()
        if await self.wake_event.wait() is not WakeReason.STOP:
            raise ZeroDivisionError("bad service")


class MaintainerBench:
    """A running maintainer, and the terms that it asked to resign."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.asked: list[Term] = []
        self.stack = stack

    async def maintainer(
        self, services: Sequence[Service], stagger_seconds: float = 0.0
    ) -> tuple[Maintainer, Probe]:
        maintainer = Maintainer(services, request_resign=self.asked.append, stagger_seconds=stagger_seconds)
        self.stack.push_async_callback(maintainer.stop)
        await maintainer.start()
        return maintainer, Probe(maintainer)


@pytest.fixture
async def bench() -> AsyncIterator[MaintainerBench]:
    async with AsyncExitStack() as stack:
        yield MaintainerBench(stack)


async def test_maintainer_runs_services_during_a_term(bench: MaintainerBench) -> None:
    """No service runs before a term, all run during it, and none after it."""
    services = [FakeService(), FakeService()]
    maintainer, probe = await bench.maintainer(services)
    before = [service.is_running for service in services]

    maintainer.set_term(FIRST)
    term = await probe.wait("serving")
    during = [service.is_running for service in services]
    probe.forget("stopped")
    maintainer.set_term(None)
    await probe.wait("stopped")
    after = [service.is_running for service in services]

    assert (before, term, during, after) == ([False, False], FIRST, [True, True], [False, False])


async def test_maintainer_restarts_services_for_the_next_term(bench: MaintainerBench) -> None:
    """Two terms that change between two checks still restart the services."""
    service = FakeService()
    maintainer, probe = await bench.maintainer([service])
    maintainer.set_term(FIRST)
    await probe.wait("serving")

    maintainer.set_term(None)
    maintainer.set_term(SECOND)
    term = await probe.wait("serving")

    assert (term, service.num_starts) == (SECOND, 2)


async def test_maintainer_stops_starting_when_the_term_ends(bench: MaintainerBench) -> None:
    """Services start one after another; those not started when the term ends stay stopped."""
    services = [FakeService() for _ in range(5)]
    maintainer, probe = await bench.maintainer(services, stagger_seconds=3600.0)
    maintainer.set_term(FIRST)
    await asyncio.sleep(0)

    probe.forget("stopped")
    maintainer.set_term(None)
    await probe.wait("stopped")

    assert [service.num_starts for service in services] == [0] * 5


@pytest.mark.parametrize("error", [ZeroDivisionError("bad start"), Mute()])
async def test_maintainer_retries_a_failed_start(bench: MaintainerBench, error: Exception) -> None:
    """A service that failed to start twice is started the third time."""
    service = FakeService(num_bad_starts=2, error=error)
    maintainer, probe = await bench.maintainer([service])

    maintainer.set_term(FIRST)
    await probe.wait("serving")

    assert (service.num_starts, service.is_running, bench.asked) == (3, True, [])


async def test_maintainer_resigns_a_term_after_three_failed_starts(
    bench: MaintainerBench, caplog: pytest.LogCaptureFixture
) -> None:
    """No service runs in that term, and the next term is tried."""
    good, bad = FakeService(), FakeService(num_bad_starts=3)
    maintainer, probe = await bench.maintainer([good, bad])

    maintainer.set_term(FIRST)
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not bench.asked:
            await probe.wait("stopped")
    in_vain = [good.is_running, bad.is_running]
    maintainer.set_term(None)
    maintainer.set_term(SECOND)
    await probe.wait("serving")

    assert (in_vain, bench.asked) == ([False, False], [FIRST])
    assert [good.is_running, bad.is_running] == [True, True]
    emitted = [(record.msg, record.attempt) for record in caplog.records]  # type: ignore[attr-defined]
    assert emitted == [("maintenance service not started", attempt) for attempt in (1, 2, 3)]


async def test_maintainer_crashes_with_its_services(bench: MaintainerBench) -> None:
    """A service that ends unexpectedly crashes the maintainer."""
    bad, good = FakeService(), FakeService()
    maintainer, probe = await bench.maintainer([bad, good])
    crashed: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    maintainer.on_crash = lambda _, error: crashed.set_result(error)
    maintainer.set_term(FIRST)
    await probe.wait("serving")

    bad.wake_event.set()
    error = await asyncio.wait_for(crashed, GENEROUS_SECONDS)

    assert str(error) == "bad service"
    assert not good.is_running


async def test_maintainer_stops_its_services_when_stopped(bench: MaintainerBench) -> None:
    """A client that stops during its term leaves no service running."""
    services = [FakeService(), FakeService()]
    maintainer, probe = await bench.maintainer(services)
    maintainer.set_term(FIRST)
    await probe.wait("serving")

    await maintainer.stop()

    assert not any(service.is_running for service in services)


async def test_maintainer_withstands_terms_starts_and_stops_at_once(bench: MaintainerBench) -> None:
    """However terms, starts and stops interleave, the maintainer and its services are stopped in the end."""
    services = [FakeService(), FakeService()]
    maintainer, _ = await bench.maintainer(services)

    async def hammer(n: int) -> None:
        for turn in range(50):
            maintainer.set_term(
                None if turn % 3 == 0 else Term(ClientId("a"), NOW + timedelta(seconds=turn * n))
            )
            await maintainer.start()
            await asyncio.sleep(0)
            await maintainer.stop()

    async with asyncio.timeout(GENEROUS_SECONDS), asyncio.TaskGroup() as group:
        for n in range(5):
            group.create_task(hammer(n))

    assert not any(service.is_running for service in (maintainer, *services))


@pytest.mark.slow
async def test_services_run_in_the_leader(schema_driver: AsyncpgDriver) -> None:
    """One of two clients runs the services; when it stops, the other one does."""
    async with AsyncExitStack() as stack:
        services, electors, probes = [FakeService(), FakeService()], [], []
        for n, service in enumerate(services):
            maintainer = Maintainer([service], request_resign=[].append, stagger_seconds=0.0)
            elector = Elector(
                schema_driver.pool,
                ClientId(f"client_{n}"),
                clock=SystemClock(),
                on_term=maintainer.set_term,
                interval_seconds=0.02,
            )
            probes.append(Probe(maintainer))
            electors.append(elector)
            for one in (maintainer, elector):
                stack.push_async_callback(one.stop)
                await one.start()
            if n == 0:
                await probes[0].wait("serving")

        before = [service.is_running for service in services]
        probes[0].forget("stopped")
        await electors[0].stop()
        await probes[1].wait("serving")
        await probes[0].wait("stopped")
        after = [service.is_running for service in services]

    assert (before, after) == ([True, False], [False, True])
