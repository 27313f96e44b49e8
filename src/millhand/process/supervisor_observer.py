"""
Answers probes about all processes of a supervisor, and reports to systemd.

    probe ──▶ supervisor ──▶ each worker process, through a pair of sockets ──▶ one answer for all
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Self

from millhand.core.log.logger import logger_of
from millhand.engine.service import IntervalService
from millhand.observe.health import OK, ProcessAnswer, Verdict, WorkerState, all_live, all_ready
from millhand.observe.http_server import Answer, HttpServer
from millhand.observe.process_link import ProcessLink, ask_all
from millhand.process.metrics_page import PAGE_PATH, POINTS_PATH, page_of_processes
from millhand.process.observer import ObserveSettings, Reporter, answer_of

logger = logger_of(__name__)

ASK_SECONDS = 0.5  # less than the second after which Kubernetes gives a probe up


class _Process:
    """One worker process: its link, and for how long it has not answered."""

    def __init__(self, end: socket.socket) -> None:
        self.has_answered = False
        self.link = ProcessLink(end)
        self.unanswered_since: float | None = None

    def answer(self, answer: Answer | None) -> ProcessAnswer:
        now = time.monotonic()
        if answer is not None:
            self.has_answered, self.unanswered_since = True, None
        elif self.unanswered_since is None:
            self.unanswered_since = now
        return ProcessAnswer(
            verdict=None if answer is None else _verdict(answer),
            has_answered=self.has_answered,
            unanswered_seconds=0.0 if self.unanswered_since is None else now - self.unanswered_since,
        )


class SupervisorObserver(IntervalService):
    """
    Observes worker processes: answers from the moment it is made, and reports inside its `async with` block.

    `routes` has the function of each path. Raises: ConfigError if it cannot listen.
    Concurrency: other threads call `routes` and `ask`; everything else belongs to the event loop of the supervisor.
    """

    def __init__(self, settings: ObserveSettings, num_processes: int) -> None:
        super().__init__()
        self.interval_seconds = settings.turn_seconds
        self._asking = threading.Lock()
        self._is_started = False
        self._is_stopping = False
        self._live_seconds = settings.live_seconds
        self._numbers = range(num_processes)
        self._processes: dict[int, _Process] = {}
        self._removed: list[_Process] = []
        self._reporter = Reporter(settings)
        self._reports = settings.file is not None or settings.manager is not None
        self._server: HttpServer | None = None
        self.routes: dict[str, Callable[[], Answer]] = {
            "/healthz": lambda: answer_of(self._live()),
            "/livez": lambda: answer_of(self._live()),
            PAGE_PATH: lambda: page_of_processes(self.ask(POINTS_PATH)),
            "/readyz": lambda: answer_of(self._ready()),
            "/startupz": lambda: answer_of(self._startup()),
        }
        if settings.address is not None:
            self._server = HttpServer(settings.address, self.routes)
            logger.info("health listening", extra={"address": self._server.address.text})

    async def __aenter__(self) -> Self:
        if self._reports:
            await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if self._server is not None:
            self._server.close()
        self._close_removed()

    def add(self, number: int) -> socket.socket:
        """Return the end of a link for a process that is about to start."""
        ours, theirs = socket.socketpair()
        self._processes[number] = _Process(ours)
        return theirs

    def remove(self, number: int) -> None:
        """Forget a process that has exited, or that could not be started."""
        process = self._processes.pop(number, None)
        if process is not None:
            self._removed.append(process)
        # A thread that asks now may use the link. The next question or the next `remove` closes it then.
        if self._asking.acquire(blocking=False):
            self._close_removed()
            self._asking.release()

    def _close_removed(self) -> None:
        while self._removed:
            self._removed.pop().link.close()

    def on_stopping(self) -> None:
        """Record that all processes are asked to stop."""
        self._is_stopping = True
        self.wake_event.set()

    def ask(self, path: str, seconds: float = ASK_SECONDS) -> dict[int, Answer]:
        """Return what the processes answer within `seconds`, by number; those that do not answer are left out."""
        return self._ask(path, seconds)[0]

    async def run_once(self) -> None:
        is_live, state, status = await asyncio.to_thread(self._observed)
        self._reporter.turn(state, is_live=is_live, status=status)

    def _observed(self) -> tuple[bool, WorkerState, str]:
        is_live = self._live().is_ok
        answers = self._ask("/readyz")[1]
        num_ready = sum(one.verdict is not None and one.verdict.is_ok for one in answers.values())
        state = WorkerState.STOPPING
        if not self._is_stopping:
            state = WorkerState.WORKING if self._startup().is_ok else WorkerState.STARTING
        return is_live, state, f"{num_ready} of {len(self._numbers)} processes ready"

    def _live(self) -> Verdict:
        return all_live(self._ask("/livez")[1], self._live_seconds)

    def _ready(self) -> Verdict:
        if self._is_stopping:
            return Verdict(is_ok=False, line=WorkerState.STOPPING.value)
        return all_ready(self._ask("/readyz")[1], self._numbers)

    def _startup(self) -> Verdict:
        if self._is_started:
            return OK
        verdict = all_ready(self._ask("/startupz")[1], self._numbers)
        self._is_started = verdict.is_ok  # a process that is restarted later does not change it
        return verdict

    def _ask(
        self, path: str, seconds: float = ASK_SECONDS
    ) -> tuple[dict[int, Answer], dict[int, ProcessAnswer]]:
        if not self._asking.acquire(timeout=seconds):
            return {}, {number: ProcessAnswer(verdict=None) for number in list(self._processes)}
        try:
            self._close_removed()
            processes = dict(self._processes)
            answers = ask_all({number: one.link for number, one in processes.items()}, path, seconds)
            return answers, {number: one.answer(answers.get(number)) for number, one in processes.items()}
        finally:
            self._asking.release()


def _verdict(answer: Answer) -> Verdict:
    return Verdict(
        is_ok=answer.status == HTTPStatus.OK, line=answer.body.decode(errors="replace").rstrip("\n")
    )
