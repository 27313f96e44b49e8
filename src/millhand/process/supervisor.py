"""
Run several worker processes of one command, restart those that exit unexpectedly, and stop them together.

    supervisor     ──▶ worker process 1 … N     each has a client of its own; they share only the database
    signal         ──▶ sent to all processes    each runs its own shutdown sequence
    process exits  ──▶ restarted after a pause  unless all are stopping, it exited for wrong use,
                                                or its queues are empty, with --until-empty
    start fails    ──▶ tried again after a pause

Each worker process holds the reading end of a pipe. When the supervisor dies, the pipe closes and the process stops.

Concurrency: belongs to one event loop, on which `on_signal` must be called.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from millhand.core.errors import error_type
from millhand.core.log.logger import logger_of
from millhand.process.connection_budget import PROCESSES_VARIABLE
from millhand.process.signals import SIGNALS
from millhand.shells.exit_code import DONE, NOT_DONE, WRONG_USE

if TYPE_CHECKING:
    from millhand.process.supervisor_observer import SupervisorObserver

logger = logger_of(__name__)

# The file descriptor of the pipe's reading end, for the worker process.
PIPE_VARIABLE = "MILLHAND_SUPERVISOR_FD"
# The file descriptor through which the supervisor asks a worker process what its probes answer.
LINK_VARIABLE = "MILLHAND_HEALTH_FD"
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# After this run time an exit does not count as a failed start.
STEADY_SECONDS = 60.0
# What a shell returns for a command that it found and could not start.
NOT_STARTED = 126


class Ending(msgspec.Struct, frozen=True):
    """
    The exit of a process: its code (or minus the signal that killed it), and how long it ran.

    `error` is why the system could not start it.
    """

    code: int
    seconds: float
    error: Exception | None = None


def pause_seconds(endings: Sequence[Ending]) -> float:
    """Return how long to wait before the restart of a process with these exits."""
    num_early = 0
    for ending in reversed(endings):
        if ending.seconds >= STEADY_SECONDS:
            break
        num_early += 1
    return PAUSES_SECONDS[min(max(num_early, 1), len(PAUSES_SECONDS)) - 1]


class Supervisor:
    """Keeps `num_processes` processes of one command running until a signal, or until all are done."""

    def __init__(
        self,
        command: Sequence[str],
        num_processes: int,
        *,
        until_empty: bool,
        observer: SupervisorObserver | None = None,
    ) -> None:
        self._children: dict[int, asyncio.subprocess.Process] = {}
        self._command = command
        self._is_ending = asyncio.Event()
        self._num_processes = num_processes
        self._observer = observer
        self._spawning = asyncio.Lock()
        self._until_empty = until_empty

    def on_signal(self, name: str, num_signals: int) -> None:
        """Send a signal to all processes, and restart none from now on."""
        if not self._is_ending.is_set():
            logger.info(
                "worker processes stopping", extra={"signal": name, "num_processes": len(self._children)}
            )
        self._end(getattr(signal, name))

    async def run(self) -> int:
        began = time.monotonic()
        reading, writing = os.pipe()
        logger.info("worker processes started", extra={"num_processes": self._num_processes})
        try:
            async with asyncio.TaskGroup() as group:
                keepers = [
                    group.create_task(self._keep(number, reading)) for number in range(self._num_processes)
                ]
        finally:
            os.close(reading)
            os.close(writing)
        codes = [keeper.result() for keeper in keepers]
        code = DONE if not any(codes) else WRONG_USE if WRONG_USE in codes else NOT_DONE
        seconds = round(time.monotonic() - began, 3)
        fields = {"num_processes": self._num_processes, "exit_code": code, "seconds": seconds}
        logger.info("worker processes stopped", extra=fields)
        return code

    async def _keep(self, number: int, reading: int) -> int:
        endings: list[Ending] = []
        while True:
            endings = [*endings[-len(PAUSES_SECONDS) :], await self._run_one(number, reading)]
            code = endings[-1].code
            # An emptied process that left a database out exits with NOT_DONE, and would leave it out again.
            if self._is_ending.is_set() or (self._until_empty and code in (DONE, NOT_DONE)):
                return code
            if code == WRONG_USE:  # it has printed the reason, and a restart would fail again
                logger.error("worker process refused", extra=_fields(number, endings[-1]))
                self._end(signal.SIGTERM)
                return code
            pause = pause_seconds(endings)
            _log_ending(number, endings[-1], pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._is_ending.wait()
                    return code

    async def _run_one(self, number: int, reading: int) -> Ending:
        """Run a process until its end. Return the error of one that cannot be started, so that the others continue."""
        began = time.monotonic()
        try:
            process = await self._started(number, reading)
        # A limit of processes, files or memory, or a program that is being replaced. Where asyncio waits for a process in
        # a thread, a refused thread is a RuntimeError.
        except (OSError, RuntimeError) as error:
            self._forget(number)
            return Ending(NOT_STARTED, time.monotonic() - began, error)
        code = await process.wait()
        self._forget(number)
        return Ending(code, time.monotonic() - began)

    async def _started(self, number: int, reading: int) -> asyncio.subprocess.Process:
        async with self._spawning:
            with self._linked(number) as link:
                num_compared = self._num_processes if number == 0 else 0
                process = await self._spawn({PIPE_VARIABLE: reading, **link}, num_compared)
        self._children[number] = process
        if self._is_ending.is_set():
            _send(process, signal.SIGTERM)
        logger.debug("worker process started", extra={"process_number": number, "pid": process.pid})
        return process

    def _forget(self, number: int) -> None:
        self._children.pop(number, None)
        if self._observer is not None:
            self._observer.remove(number)

    async def _spawn(self, handles: Mapping[str, int], num_compared: int) -> asyncio.subprocess.Process:
        """Start a process that inherits file descriptors, and finds these numbers in its environment."""
        numbers = {**handles, PROCESSES_VARIABLE: num_compared}
        # The process inherits the blocked signals and unblocks them when it is ready.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            # In a session of its own: Ctrl-C reaches the supervisor, which sends it once.
            return await asyncio.create_subprocess_exec(
                *self._command,
                env={**os.environ, **{name: str(number) for name, number in numbers.items()}},
                pass_fds=tuple(handles.values()),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    @contextlib.contextmanager
    def _linked(self, number: int) -> Iterator[dict[str, int]]:
        """Yield the variable and the file descriptor of a link to the observer, if there is one."""
        if self._observer is None:
            yield {}
            return
        with self._observer.add(number) as end:
            yield {LINK_VARIABLE: end.fileno()}

    def _end(self, number: int) -> None:
        self._is_ending.set()
        if self._observer is not None:
            self._observer.on_stopping()
        for process in self._children.values():
            _send(process, number)


def _fields(number: int, ending: Ending) -> dict[str, object]:
    return {"process_number": number, "exit_code": ending.code, "seconds": round(ending.seconds, 3)}


def _log_ending(number: int, ending: Ending, pause: float) -> None:
    if ending.error is None:
        logger.error("worker process ended", extra={**_fields(number, ending), "sleep_seconds": pause})
        return
    fields = {"error": str(ending.error), "error_type": error_type(ending.error)}
    logger.error(
        "worker process not started", extra={**fields, "process_number": number, "sleep_seconds": pause}
    )


def _send(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def stop_with_supervisor() -> None:
    """Send this process SIGTERM when its supervisor, if any, dies. Call it on the event loop of the worker."""
    text = os.environ.pop(PIPE_VARIABLE, "")  # child processes of jobs are not supervised
    if not text.isdecimal():
        return
    loop, reading = asyncio.get_running_loop(), int(text)

    def on_closed() -> None:
        loop.remove_reader(reading)
        os.kill(os.getpid(), signal.SIGTERM)

    with contextlib.suppress(OSError):  # the variable was inherited, but not the pipe
        loop.add_reader(reading, on_closed)
