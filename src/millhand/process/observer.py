"""What `[observe]` and systemd ask of a worker process or a supervisor, and how both report it."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import msgspec

from millhand.core.errors import ConfigError
from millhand.core.log.logger import logger_of
from millhand.engine.loop_watch import TURN_SECONDS
from millhand.observe.health import Verdict, WorkerState
from millhand.observe.http_server import Address, Answer, parsed_address, plain
from millhand.observe.service_manager import ServiceManager
from millhand.shells.settings.load import Settings

logger = logger_of(__name__)

FILE_SECONDS = 10.0
LIVE_AFTER_MIN = timedelta(seconds=1)  # the loop is observed each second
# How long systemd waits for the next report of a start or a stop, which comes each second.
EXTEND_SECONDS = 30


class ObserveSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a process is observed.

    Attributes:
        address: Where it answers probes, or None.
        file: What it touches while it is live, or None.
        live_seconds: How long its event loop may hang.
        manager: The systemd that started it, or None.
    """

    address: Address | None
    file: Path | None
    live_seconds: float
    manager: ServiceManager | None

    @property
    def turn_seconds(self) -> float:
        """How often to report."""
        watchdog = None if self.manager is None else self.manager.watchdog_seconds
        return TURN_SECONDS if watchdog is None else min(TURN_SECONDS, watchdog / 2)


def observe_settings(
    settings: Settings, manager: ServiceManager | None = None, *, is_supervised: bool = False
) -> ObserveSettings:
    """
    Return the settings of `[observe]` for a process that `manager` started.

    Of several processes the supervisor listens and reports; it asks the supervised ones. Raises: ConfigError.
    """
    listen, file = settings.get("observe.listen"), settings.get("observe.file")
    live_after: timedelta = settings.get("observe.live_after")
    with settings.errors_with_origin("observe"):
        address = parsed_address(listen) if listen else None
        if live_after < LIVE_AFTER_MIN:
            raise ConfigError(f"live_after must be at least 1s, got {live_after.total_seconds():g}s")
    return ObserveSettings(
        address=None if is_supervised else address,
        file=Path(file) if file and not is_supervised else None,
        live_seconds=live_after.total_seconds(),
        manager=manager,
    )


def answer_of(verdict: Verdict) -> Answer:
    return plain(200 if verdict.is_ok else 503, verdict.line)


class Reporter:
    """Reports each turn to systemd and in the file. Concurrency: belongs to one event loop, and never waits."""

    def __init__(self, settings: ObserveSettings) -> None:
        self._watchdog_at = float("-inf")
        self._file = settings.file
        self._has_file_failed = False
        self._manager = settings.manager
        self._state = WorkerState.STARTING
        self._status = ""
        self._touched_at = float("-inf")
        self._turn_seconds = settings.turn_seconds

    def turn(self, state: WorkerState, *, is_live: bool, status: str) -> None:
        """Report a new state or status, and that the process is live."""
        now = time.monotonic()
        if self._manager is not None:
            assignments = self._assignments(now, state, status, is_live=is_live)
            if assignments:
                self._manager.notify(*assignments)
        if self._file is not None and is_live and now - self._touched_at >= FILE_SECONDS:
            self._touched_at = now
            self._touch(self._file)

    def _assignments(self, now: float, state: WorkerState, status: str, *, is_live: bool) -> list[str]:
        assignments = []
        if state is not self._state:
            self._state = state
            assignments.append("READY=1" if state is WorkerState.WORKING else "STOPPING=1")
        if status != self._status:
            self._status = status
            assignments.append(f"STATUS={status}")
        if not is_live:
            return assignments
        if state is not WorkerState.WORKING:
            assignments.append(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1_000_000}")
        watchdog = None if self._manager is None else self._manager.watchdog_seconds
        # Rather half a turn early than late.
        if watchdog is not None and now - self._watchdog_at >= watchdog / 2 - self._turn_seconds / 2:
            self._watchdog_at = now
            assignments.append("WATCHDOG=1")
        return assignments

    def _touch(self, file: Path) -> None:
        try:
            file.touch()
        except OSError as error:
            if not self._has_file_failed:
                fields = {"file": str(file), "error": error.strerror, "error_type": type(error).__name__}
                logger.warning("health file not written", extra=fields)
            self._has_file_failed = True
        else:
            self._has_file_failed = False
