"""
Run a client for each of several databases in one process.

    start    all at once; one that fails is logged and tried again, and the others work   exit 1 if all fail
    signal   every client stops gracefully, at the same time                              exit 0
    empty    all queues of all databases, with --until-empty                              exit 0
             or of all that answer: others are left out, after a failed start at once     exit 1
    crash    of one client: every client stops gracefully                                 exit 1

The clients share the event loop, the signals and the probes. Each has its own pool, slots, leadership and schedules.

Concurrency: belongs to one event loop, on which `on_signal` must be called.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING

from millhand.client import Client
from millhand.core.errors import MillhandError, error_type
from millhand.core.log.context_fields import database_named
from millhand.core.log.logger import logger_of
from millhand.engine.error_handler import error_text
from millhand.process.signals import StopSignals
from millhand.process.supervisor import PAUSES_SECONDS
from millhand.process.worker_process import (
    EMPTY_POLL_SECONDS,
    Ended,
    Start,
    Work,
    WorkerProcess,
    listening,
    run_until_signal,
)

if TYPE_CHECKING:
    from millhand.process.worker_observer import WorkerObserver

logger = logger_of(__name__)

# With `until_empty`, a database that does not answer for so long is left out: a failover or a restart takes less.
AWAY_SECONDS = 30.0
# Jobs of one database may insert jobs into another one, whose queues were found empty before.
EMPTY_ROUNDS = 2


class StartFailed(MillhandError):
    """A client could not start, for a reason."""

    def __init__(self, reason: MillhandError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class DatabasesProcess:
    """Runs a client for each database until a signal, a crash or, with `until_empty`, until all queues are empty."""

    def __init__(
        self, starts: Mapping[str, Start], *, until_empty: bool, observer: WorkerObserver | None = None
    ) -> None:
        self._away_since: dict[str, float] = {}  # of the databases that no longer answer, on the loop's clock
        self._error: Exception | None = None
        self._failures: dict[str, MillhandError] = {}  # of the databases whose last start failed
        self._has_crashed = False
        self._is_stopping = asyncio.Event()
        self._observer = observer
        self._processes: dict[str, WorkerProcess] = {}
        self._signal: str | None = None
        self._started: set[str] = set()
        self._starts = starts
        self._until_empty = until_empty
        self._watcher: asyncio.Task[None] | None = None  # of the queues, with `until_empty`

    def on_signal(self, signal: str, num_signals: int) -> None:
        """Stop all clients, and cancel their attempts at the second signal."""
        if not self._is_stopping.is_set():
            self._signal = signal
            self._end_starts()
        for process in self._processes.values():
            process.on_signal(signal, num_signals)

    async def run(self) -> bool:
        """
        Start the clients, work and stop; return False after a crash, or if an emptied process left a database out.

        Raises: the error of the first database, if no client could start.
        """
        async with asyncio.TaskGroup() as group:
            if self._until_empty and not self._is_stopping.is_set():
                self._watcher = group.create_task(self._watch_empty())
            await asyncio.gather(*(self._work(name, start) for name, start in self._starts.items()))
            self._end_starts()
        if self._error is not None:
            raise self._error
        is_left_out = self._until_empty and self._signal is None and (self._failures or self._away_since)
        return not (self._has_crashed or is_left_out)

    async def _work(self, name: str, start: Start) -> None:
        """Work in one database until the process stops. A crash or an unexpected error stops all of them."""
        with database_named(name):
            try:
                if not await self._work_in(name, start):
                    self._has_crashed = True
            except Exception as error:  # noqa: BLE001 - raised when the other clients have stopped
                self._error = error
            if self._has_crashed or self._error is not None:
                self._end_starts()
                for process in self._processes.values():
                    process.stop()

    async def _work_in(self, name: str, start: Start) -> bool:
        """Run the client of one database, and try its start again until it succeeds; return False after a crash."""
        for pause_seconds in _pauses():
            if self._is_stopping.is_set():
                break
            try:
                return await self._run_once(name, start)
            except StartFailed as failed:
                if not self._is_tried_again(name, failed.reason, pause_seconds):
                    return True
            await self._wait_stopping(pause_seconds)
        if self._error is None:
            logger.info("worker stopped", extra={"signal": self._signal, "completed": 0, "failed": 0})
        return True

    async def _run_once(self, name: str, start: Start) -> bool:
        """Run one client from its start to its end, and return whether the end was graceful. Raises: StartFailed."""
        process = WorkerProcess(until_empty=False, observer=self._observer)
        self._processes[name] = process

        async def started() -> Client:
            try:
                client = await start(stack)
            except MillhandError as error:
                raise StartFailed(error) from error
            self._failures.pop(name, None)
            self._started.add(name)
            return client

        try:
            async with AsyncExitStack() as stack:
                return await process.run(started)
        finally:
            del self._processes[name]

    def _is_tried_again(self, name: str, reason: MillhandError, pause_seconds: float) -> bool:
        """Log why a start failed, unless the last one did for the same reason; return whether to try it again."""
        before = self._failures.get(name)
        self._failures[name] = reason
        if len(self._failures) == len(self._starts) and not self._started:
            self._error = self._failures[next(iter(self._starts))]
            return False
        if before is None or error_text(before) != error_text(reason):
            fields = {"error": error_text(reason), "error_type": error_type(reason.__cause__ or reason)}
            pause = None if self._until_empty else pause_seconds
            logger.error("database not started", extra={**fields, "sleep_seconds": pause})
        return not self._until_empty

    async def _wait_stopping(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_stopping.wait()

    def _end_starts(self) -> None:
        """Start no client from now on, and end the watch: a client that is closed cannot be asked for its queues."""
        self._is_stopping.set()
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch_empty(self) -> None:
        num_rounds = 0
        while num_rounds < EMPTY_ROUNDS:
            num_rounds = num_rounds + 1 if await self._are_empty() else 0
            await self._wait_stopping(EMPTY_POLL_SECONDS)
        self._is_stopping.set()
        for name, process in [*self._processes.items()]:
            with database_named(name):
                if name in self._away_since:
                    process.stop()
                else:
                    await process.end_empty()

    async def _are_empty(self) -> bool:
        """Return whether the queues of all databases are empty, without those that are left out."""
        known = self._started | self._failures.keys()
        processes = [*self._processes.items()]
        return known == self._starts.keys() and all([await self._is_done(*each) for each in processes])

    async def _is_done(self, name: str, process: WorkerProcess) -> bool:
        """Return whether the queues of a database are empty, or it is left out because it no longer answers."""
        if not process.is_away:
            self._away_since.pop(name, None)
            return await process.is_empty()
        now = asyncio.get_running_loop().time()
        return now - self._away_since.setdefault(name, now) >= AWAY_SECONDS


def run_databases(
    starts: Mapping[str, Start],
    *,
    until_empty: bool,
    beside: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext,
    observer: WorkerObserver | None = None,
    signals: StopSignals | None = None,
) -> Ended:
    """
    Run a client for each database, by name, as a worker until a signal, a crash or until all queues are empty.

    `beside` opens what runs as long as they do, such as the web page. `signals` are those that the caller has taken
    already. Call it in the main thread.
    Raises: the error of a start, if no client could start.
    """

    async def work(signals: StopSignals) -> bool:
        process = DatabasesProcess(starts, until_empty=until_empty, observer=observer)
        async with listening(signals, process.on_signal, observer), beside():
            return await process.run()

    @contextlib.contextmanager
    def opened() -> Iterator[Work]:
        yield work

    return run_until_signal(opened, unblocks=True, signals=signals)


def _pauses() -> Iterator[float]:
    yield from PAUSES_SECONDS
    while True:
        yield PAUSES_SECONDS[-1]
