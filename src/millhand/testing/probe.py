"""Waits in tests for events inside services instead of for time to pass."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from millhand.engine.service import Service

TIMEOUT_SECONDS = 20.0  # longer than any event takes unless something is broken


class Probe:
    """
    Lets a test wait for moments inside services.

        probe = Probe(producer)
        await probe.wait("fetched")

    Concurrency: belongs to the event loop that it is created in.
    """

    def __init__(self, *services: Service) -> None:
        self._moments: defaultdict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        for service in services:
            service.probe = self.record  # type: ignore[method-assign]  # services have it for tests

    def record(self, moment: str, value: object = None) -> None:
        """Record a moment; services call it."""
        self._moments[moment].put_nowait(value)

    async def wait(self, moment: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Any:  # noqa: ANN401 - the value
        """
        Wait for the next `moment`, and return its value. Each moment is returned once.

        Raises: TimeoutError listing the recorded moments.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._moments[moment].get()
        except TimeoutError:
            recorded = ", ".join(sorted(name for name, queue in self._moments.items() if queue.qsize()))
            raise TimeoutError(
                f"{moment!r} must come within {timeout_seconds:g} s, got {recorded or 'nothing'}"
            ) from None

    def num(self, moment: str) -> int:
        """Return how many `moment`s are recorded and not waited for."""
        return self._moments[moment].qsize()

    def forget(self, moment: str) -> None:
        """Drop the recorded `moment`s, so that `wait` returns only later ones."""
        self._moments.pop(moment, None)
