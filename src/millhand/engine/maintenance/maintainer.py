"""Starts the maintenance services when a term begins, and stops them when it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from millhand.core.clock import backoff_seconds
from millhand.core.log.logger import logger_of
from millhand.engine.elector import Term
from millhand.engine.error_text import error_fields
from millhand.engine.service import Service, WakeReason

logger = logger_of(__name__)

NUM_START_ATTEMPTS = 3
# Each service of a new leader begins with a pass. Pauses between the starts spread the load.
STAGGER_SECONDS = 1.0


class Maintainer(Service):
    """
    Keeps `services` running while there is a term.

    Leadership calls `set_term`. A service that does not start is tried again, and if that fails too, the maintainer calls
    `request_resign(term)`. A crash of a service crashes the maintainer.
    Units: `stagger_seconds` is the longest pause before each start; 0 starts all at once.
    Source: River v0.51.2, internal/maintenance/queue_maintainer_leader.go.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        request_resign: Callable[[Term], None],
        stagger_seconds: float = STAGGER_SECONDS,
    ) -> None:
        super().__init__()
        self._crash: tuple[Service, BaseException | None] | None = None
        self._request_resign = request_resign
        self._served: Term | None = None
        self._stagger_seconds = stagger_seconds
        self._services = tuple(services)
        self._term: Term | None = None
        for service in self._services:
            service.on_crash = self._on_crash

    def set_term(self, term: Term | None) -> None:
        """Follow a term that began, or None for its end. Does not wait."""
        self._term = term
        self.wake_event.set()

    async def run(self, started: Callable[[], None]) -> None:
        self._crash = None
        self._served = None
        started()
        try:
            while not self.wake_event.is_stopping:
                if self._crash is not None:
                    service, error = self._crash
                    raise error or RuntimeError(f"{service.name} must run until it is stopped, got its end")
                if self._served == self._term:
                    await self.wake_event.wait()
                else:
                    await self._serve(self._term)
        finally:
            await self._stop_services()

    async def _serve(self, term: Term | None) -> None:
        """Stop the services, and start them again for `term`; return early if it ends meanwhile."""
        await self._stop_services()
        self._served = term
        if term is None:
            return
        for service in self._services:
            if await self._is_over(term, random.uniform(0, self._stagger_seconds)):  # noqa: S311 - spreads load
                return
            if not await self._start(service, term):
                return
        self.probe("serving", term)

    async def _start(self, service: Service, term: Term) -> bool:
        for attempt in range(1, NUM_START_ATTEMPTS + 1):
            service.on_pass = self.on_pass
            try:
                await service.start()
            except Exception as error:  # noqa: BLE001 - a user's hook may be what failed
                pause = backoff_seconds(attempt, first=self._stagger_seconds)
                _log_failure(service, error, attempt, pause)
                if attempt < NUM_START_ATTEMPTS and await self._is_over(term, pause):
                    return False
            else:
                return True
        await self._stop_services()
        self._request_resign(term)
        return False

    async def _is_over(self, term: Term, pause: float) -> bool:
        """Pause, and return whether `term` has ended by then."""
        wake = await self.wake_event.wait(pause)
        return wake is not WakeReason.TIMEOUT and (
            wake is WakeReason.STOP or self._term != term or self._crash is not None
        )

    async def _stop_services(self) -> None:
        async with asyncio.TaskGroup() as group:
            for service in self._services:
                group.create_task(service.stop())
        self.probe("stopped")

    def _on_crash(self, service: Service, error: BaseException | None) -> None:
        self._crash = (service, error)
        self.wake_event.set()


def _log_failure(service: Service, error: Exception, attempt: int, pause: float) -> None:
    logger.warning(
        "maintenance service not started",
        extra={
            **error_fields(error),
            "attempt": attempt,
            "max_attempts": NUM_START_ATTEMPTS,
            "operation": service.name,
            "sleep_seconds": pause,
        },
    )
