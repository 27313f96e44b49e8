"""
The lifecycle of every long-running service.

Rule 1: a service is one coroutine, `run`. It sleeps only in `wake_event.wait()`, which returns why it woke.
Rule 2: a stop does not cancel the coroutine. The loop sees it at its next wait, so a fetch or a write is finished first.
        It cancels only a step that `unless_stopped` runs: one that may be long, and that another client can repeat.
Rule 3: a service that ends without a stop has crashed, and its owner is notified at once.

    start() ──▶ run ── started() ── wake_event.wait() ⟲ ── return ──▶ stopped
                                        ▲
                         set() · timeout · stop()

Concurrency: everything here belongs to one event loop. `start` and `stop` may race each other and themselves.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from millhand.core.clock import backoff_seconds
from millhand.core.log.logger import logger_of
from millhand.engine.error_text import error_fields, safe_str
from millhand.engine.outage import level_of

logger = logger_of(__name__)

T = TypeVar("T")


class Stopped(Exception):
    """The service stops, and its step was cancelled."""


class WakeReason(enum.Enum):
    """Why a loop woke."""

    SET = "set"  # the event was set, once or several times
    TIMEOUT = "timeout"  # it was not set within the loop's timeout
    STOP = "stop"  # the loop must return


class WakeEvent:
    """
    The wake-up of one loop.

    A wake-up carries no data: the loop checks for itself. Several are merged into one, and none is lost.
    """

    __slots__ = ("_is_set", "_waiter", "is_stopping")

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None
        self.is_stopping = False

    def set(self) -> None:
        """Wake the loop now, or make its next wait return at once."""
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def stop(self) -> None:
        """Make this wait, and every later one, return STOP."""
        self.is_stopping = True
        self.set()

    async def wait(self, timeout_seconds: float | None = None) -> WakeReason:
        """Sleep until the event is set, a stop is requested, or `timeout_seconds` have passed. STOP precedes SET."""
        if not self._is_set:
            await self._sleep(timeout_seconds)
        if self.is_stopping:
            return WakeReason.STOP
        if not self._is_set:
            return WakeReason.TIMEOUT
        self._is_set = False
        return WakeReason.SET

    async def _sleep(self, timeout_seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None
        if timeout_seconds is not None:
            timer = loop.call_later(max(timeout_seconds, 0.0), _wake, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class LoopLock:
    """A lock of the running event loop. An `asyncio.Lock` belongs to the loop in which a task first waited for it."""

    __slots__ = ("_lock", "_loop")

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._lock, self._loop = asyncio.Lock(), loop
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class OnPass(Protocol):
    """What an owner may want to know of each pass of a service: how long it took, and whether it failed."""

    def __call__(self, service: str, seconds: float, *, has_failed: bool) -> None: ...


class Service:
    """
    A service that can be started, stopped and started again.

    A subclass writes `run(started)`: it calls `started()` once it is ready, sleeps on `self.wake_event`, and returns when
    that returns STOP. The owner may set `on_crash`, which is called if `run` ends without a stop, with the exception, or
    None if `run` returned.
    """

    def __init__(self) -> None:
        self.wake_event = WakeEvent()
        self.on_crash: Callable[[Service, BaseException | None], None] | None = None
        self.on_pass: OnPass | None = None
        self._lock = LoopLock()
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def run(self, started: Callable[[], None]) -> None:
        """Work until `wake_event` returns STOP."""
        raise NotImplementedError(self.name)

    async def start(self) -> None:
        """Return once `run` has called `started`; raise what `run` raised if it never did. Idempotent."""
        async with self._lock:
            if self.is_running:
                return
            self.wake_event = WakeEvent()
            up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            wake_event = self.wake_event
            self._task = asyncio.create_task(self.run(lambda: _wake(up)), name=self.name)
            self._task.add_done_callback(lambda task: self._ended(task, wake_event, up))
            await up
            if self._task.done():
                task, self._task = self._task, None
                task.result()

    async def stop(self) -> None:
        """Return once `run` has returned. Idempotent; an exception of `run` went to `on_crash`."""
        self.wake_event.stop()  # outside the lock: a start that waits for `started` must end too
        async with self._lock:
            if self._task is not None:
                self.wake_event.stop()
                await asyncio.wait([self._task])
                self._task = None  # not earlier: if this wait is cancelled, the next `stop` waits

    def probe(self, moment: str, value: object = None) -> None:
        """Notify a test that `moment` has come. Does nothing in production; tests replace it."""

    async def unless_stopped(self, step: Coroutine[Any, Any, T]) -> T:
        """Return what the step returns; cancel it when the service stops. Raises: Stopped."""
        task = asyncio.ensure_future(step)
        stop = asyncio.ensure_future(self._until_stop())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Stopped
        finally:
            for each in (task, stop):
                each.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    async def _until_stop(self) -> None:
        is_set = False
        try:
            while await self.wake_event.wait() is not WakeReason.STOP:
                is_set = True
        finally:
            if is_set:  # the next pass is still due
                self.wake_event.set()

    def _ended(self, task: asyncio.Task[None], wake_event: WakeEvent, up: asyncio.Future[None]) -> None:
        was_up = up.done()
        _wake(up)
        error = None if task.cancelled() else task.exception()
        if not was_up or (wake_event.is_stopping and error is None):
            return
        if self.on_crash is not None:
            self.on_crash(self, error)
        logger.error(
            "service crashed",
            exc_info=error,
            extra={
                "operation": self.name,
                "error_type": type(error).__name__,
                "error": "" if error is None else safe_str(error),
            },
        )


class IntervalService(Service):
    """
    A service that repeats a pass: at once, then every `interval_seconds`, and when woken.

    A pass that raises is logged, and the next one comes after a growing pause: a failure must neither end the service nor
    load a database that is down.
    """

    interval_seconds: float

    async def run_once(self) -> None:
        raise NotImplementedError(self.name)

    async def run(self, started: Callable[[], None]) -> None:
        started()
        num_failures = 0
        while True:
            pause: float | None
            num_failures = 0 if await self.try_pass() else num_failures + 1
            if num_failures and not self.wake_event.is_stopping:
                pause = min(backoff_seconds(num_failures), max(self.interval_seconds, 1.0))
            else:
                pause = self.next_pause_seconds()
            if await self.wake_event.wait(pause) is WakeReason.STOP:
                return

    def next_pause_seconds(self) -> float | None:
        """Return how long to wait for the next pass; None waits until the service is woken."""
        return self.interval_seconds

    async def try_pass(self) -> bool:
        """Make one pass and log its exception; return whether it succeeded."""
        began = asyncio.get_running_loop().time()
        has_succeeded = await self._try_pass()
        if self.on_pass is not None:
            seconds = asyncio.get_running_loop().time() - began
            self.on_pass(type(self).__name__, seconds, has_failed=not has_succeeded)
        return has_succeeded

    async def _try_pass(self) -> bool:
        try:
            await self.run_once()
        except Exception as error:
            if not self.wake_event.is_stopping:
                fields = {"operation": self.name, **error_fields(error)}
                is_debug = logger.isEnabledFor(logging.DEBUG)
                logger.log(level_of(error), "pass failed", exc_info=is_debug, extra=fields)
            return False
        return True


def request_stop(*services: Service | None) -> None:
    """Let services end, without waiting for them."""
    for service in services:
        if service is not None:
            service.wake_event.stop()


async def stop_all(services: Iterable[Service]) -> None:
    """Stop services at once."""
    async with asyncio.TaskGroup() as group:
        for service in list(services):
            group.create_task(service.stop())
