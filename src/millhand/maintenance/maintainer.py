"""Starts the sweepers with a term, and stops them with it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from millhand.clock import backoff_seconds
from millhand.runtime.elector import Term
from millhand.runtime.failure import words_of
from millhand.runtime.service import Service, Wake

logger = logging.getLogger(__name__)

NUM_START_ATTEMPTS = 3
# A new leader's sweepers all begin with a pass; one after another they are less of a burst.
STAGGER_SECONDS = 1.0


class Maintainer(Service):
    """
    Keeps `sweepers` running while there is a term.

    `set_term` is what the elector calls; the maintainer only takes note and rings itself. A sweeper that cannot be
    started is tried again, and when that fails too, this client is of no use as a leader: `request_resign(term)`.
    A sweeper that crashes is this service's crash.

    Units: `stagger_seconds` is the longest pause before each sweeper's start; 0 starts all at once.
    Source: River v0.51.2, internal/maintenance/queue_maintainer_leader.go.
    """

    def __init__(
        self,
        sweepers: Sequence[Service],
        *,
        request_resign: Callable[[Term], None],
        stagger_seconds: float = STAGGER_SECONDS,
    ) -> None:
        super().__init__()
        self._crash: tuple[Service, BaseException | None] | None = None
        self._request_resign = request_resign
        self._served: Term | None = None
        self._stagger_seconds = stagger_seconds
        self._sweepers = tuple(sweepers)
        self._term: Term | None = None
        for sweeper in self._sweepers:
            sweeper.on_crash = self._hear_crash

    def set_term(self, term: Term | None) -> None:
        """Take note of the term that has begun, or of its end. Does not wait."""
        self._term = term
        self.bell.ring()

    async def run(self, started: Callable[[], None]) -> None:
        self._crash = None
        self._served = None
        started()
        try:
            while not self.bell.is_stopping:
                if self._crash is not None:
                    raise _crash_of(*self._crash)
                if self._served == self._term:
                    await self.bell.wait()
                else:
                    await self._serve(self._term)
        finally:
            await self._stop_sweepers()

    async def _serve(self, term: Term | None) -> None:
        """Go over to `term`; it may be over before all sweepers have started, and is then left as it is."""
        await self._stop_sweepers()
        self._served = term
        if term is None:
            return
        for sweeper in self._sweepers:
            if await self._is_over(term, random.uniform(0, self._stagger_seconds)):  # noqa: S311 - spreads load
                return
            if not await self._start(sweeper, term):
                return
        self.probe("sweeping", term)

    async def _start(self, sweeper: Service, term: Term) -> bool:
        for attempt in range(1, NUM_START_ATTEMPTS + 1):
            try:
                await sweeper.start()
            except Exception as error:  # noqa: BLE001 - a user's hook may be what failed
                pause = backoff_seconds(attempt, first=self._stagger_seconds)
                _log_failure(sweeper, error, attempt, pause)
                if attempt < NUM_START_ATTEMPTS and await self._is_over(term, pause):
                    return False
            else:
                return True
        await self._stop_sweepers()
        self._request_resign(term)
        return False

    async def _is_over(self, term: Term, pause: float) -> bool:
        """Pause, and return whether `term` has ended by then."""
        wake = await self.bell.wait(pause)
        return wake is not Wake.TIMEOUT and (
            wake is Wake.STOP or self._term != term or self._crash is not None
        )

    async def _stop_sweepers(self) -> None:
        async with asyncio.TaskGroup() as group:
            for sweeper in self._sweepers:
                group.create_task(sweeper.stop())
        self.probe("swept")

    def _hear_crash(self, sweeper: Service, error: BaseException | None) -> None:
        self._crash = (sweeper, error)
        self.bell.ring()


def _crash_of(sweeper: Service, error: BaseException | None) -> BaseException:
    if error is not None:
        return error
    return RuntimeError(f"{sweeper.name} must run until it is stopped, got its end")


def _log_failure(sweeper: Service, error: Exception, attempt: int, pause: float) -> None:
    logger.warning(
        "sweeper not started",
        extra={
            "attempt": attempt,
            "error": words_of(error),
            "error_type": type(error).__name__,
            "max_attempts": NUM_START_ATTEMPTS,
            "operation": sweeper.name,
            "sleep_seconds": pause,
        },
    )
