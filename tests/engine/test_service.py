"""The lifecycle of services: start, stop, crash, and their wake event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from millhand.engine.service import IntervalService, Service, Stopped, WakeEvent, WakeReason

GENEROUS = 10.0


class Sleeper(Service):
    """Sleeps until stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.num_alive = 0
        self.num_alive_max = 0

    async def run(self, started: Callable[[], None]) -> None:
        self.num_alive += 1
        self.num_alive_max = max(self.num_alive, self.num_alive_max)
        started()
        while await self.wake_event.wait() is not WakeReason.STOP:
            pass
        self.num_alive -= 1


class Breaker(Service):
    """Raises when woken, or before it is ready."""

    def __init__(self, *, at_start: bool) -> None:
        super().__init__()
        self.at_start = at_start

    async def run(self, started: Callable[[], None]) -> None:
        if self.at_start:
            raise RuntimeError("cannot start")
        started()
        await self.wake_event.wait()
        raise RuntimeError("cannot go on")


async def test_wake_event_set_before_the_wait_wakes() -> None:
    """A wake-up before the wait is not lost."""
    wake_event = WakeEvent()
    wake_event.set()

    wake = await wake_event.wait(GENEROUS)

    assert wake is WakeReason.SET


async def test_wake_event_merges_wake_ups() -> None:
    """Several wake-ups before a wait wake the loop once."""
    wake_event = WakeEvent()
    for _ in range(3):
        wake_event.set()

    wakes = [await wake_event.wait(0.0), await wake_event.wait(0.0)]

    assert wakes == [WakeReason.SET, WakeReason.TIMEOUT]


async def test_stopped_wake_event_returns_stop_for_ever() -> None:
    """After a stop every wait returns STOP, whatever sets the event."""
    wake_event = WakeEvent()
    wake_event.stop()
    wake_event.set()

    wakes = [await wake_event.wait(), await wake_event.wait(0.0)]

    assert wakes == [WakeReason.STOP, WakeReason.STOP]


async def test_step_ends_with_the_service() -> None:
    """A stop cancels a step that would not end."""
    service = Sleeper()
    service.wake_event.stop()

    with pytest.raises(Stopped):
        await service.unless_stopped(asyncio.Event().wait())


async def test_wake_up_during_a_step_is_kept() -> None:
    """The next pass is still due after a step that a stop may cancel."""
    service = Sleeper()

    async def step() -> str:
        service.wake_event.set()
        for _ in range(3):
            await asyncio.sleep(0)
        return "done"

    assert await service.unless_stopped(step()) == "done"
    assert await service.wake_event.wait(0.0) is WakeReason.SET


async def test_service_start_and_stop_are_idempotent() -> None:
    """Two starts make one run, two stops equal one, and the service can start again."""
    service = Sleeper()

    await service.start()
    await service.start()
    assert service.num_alive == 1
    await service.stop()
    await service.stop()
    assert service.num_alive == 0
    await service.start()
    assert service.is_running

    await service.stop()


async def test_start_raises_the_error_of_run_before_it_was_ready() -> None:
    """The service does not run afterwards."""
    service = Breaker(at_start=True)
    crashes: list[BaseException | None] = []
    service.on_crash = lambda _, error: crashes.append(error)

    with pytest.raises(RuntimeError, match="cannot start"):
        await service.start()

    assert not service.is_running
    assert crashes == []


async def test_crash_is_reported_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of `run` goes to `on_crash` and to the log, and `stop` does not raise it again."""
    service = Breaker(at_start=False)
    crashed: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    service.on_crash = lambda _, error: crashed.set_result(error)
    await service.start()

    with caplog.at_level(logging.ERROR):
        service.wake_event.set()
        error = await asyncio.wait_for(crashed, GENEROUS)

    assert str(error) == "cannot go on"
    assert [record.msg for record in caplog.records] == ["service crashed"]
    await service.stop()


async def test_service_survives_racing_starts_and_stops() -> None:
    """Ten tasks that start and stop one service fifty times each never make two runs, and leave none."""
    service = Sleeper()

    async def race() -> None:
        for _ in range(50):
            await service.start()
            await service.stop()

    await asyncio.wait_for(asyncio.gather(*(race() for _ in range(10))), GENEROUS)

    assert not service.is_running
    assert (service.num_alive, service.num_alive_max) == (0, 1)


class Counter(IntervalService):
    """Counts its passes; the first ones fail."""

    interval_seconds = 0.0

    def __init__(self, num_failures: int) -> None:
        super().__init__()
        self.num_failures = num_failures
        self.num_passes = 0
        self.enough = asyncio.Event()

    async def run_once(self) -> None:
        self.num_passes += 1
        if self.num_passes <= self.num_failures:
            raise ValueError("no luck")
        self.enough.set()


@pytest.mark.slow
async def test_interval_service_continues_after_a_failed_pass(caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged, and the next pass comes."""
    service = Counter(num_failures=1)

    with caplog.at_level(logging.WARNING):
        await service.start()
        await asyncio.wait_for(service.enough.wait(), GENEROUS)
        await service.stop()

    assert [(record.msg, record.error) for record in caplog.records] == [("pass failed", "no luck")]


async def test_service_can_be_started_in_one_loop_after_another() -> None:
    """Starts and stops that wait for each other work in each event loop."""
    sleeper = Sleeper()

    async def once() -> None:
        await asyncio.gather(*[sleeper.start() for _ in range(3)])
        await asyncio.gather(*[sleeper.stop() for _ in range(3)])

    for _ in range(2):
        await asyncio.to_thread(asyncio.run, once())

    assert (sleeper.num_alive, sleeper.num_alive_max) == (0, 1)
