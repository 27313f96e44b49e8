"""Waiting for what happens, instead of for time to pass."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from millhand.runtime.service import Service

TIMEOUT_SECONDS = 20.0  # nothing takes so long unless it is broken


class Probe:
    """
    Hears the moments that services tell of, for a test to wait for.

        probe = Probe(producer)
        await probe.wait("fetched")

    Concurrency: made on the event loop on which it is waited.
    """

    def __init__(self, *services: Service) -> None:
        self._moments: defaultdict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        for service in services:
            service.probe = self.tell  # type: ignore[method-assign]  # made for that

    def tell(self, moment: str, value: object = None) -> None:
        """Take note of a moment; what a service calls."""
        self._moments[moment].put_nowait(value)

    async def wait(self, moment: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Any:  # noqa: ANN401 - what was told
        """
        Return what was told with the next `moment`, one that was not returned before.

        Raises: TimeoutError that lists the moments that were told instead.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._moments[moment].get()
        except TimeoutError:
            told = (
                ", ".join(sorted(name for name, queue in self._moments.items() if queue.qsize())) or "nothing"
            )
            raise TimeoutError(f"{moment!r} must come within {timeout_seconds:g} s, got {told}") from None

    def num(self, moment: str) -> int:
        """Return how often `moment` was told and not waited for."""
        return self._moments[moment].qsize()

    def forget(self, moment: str) -> None:
        """Let the next `wait` for `moment` see only what is told from now on."""
        self._moments.pop(moment, None)
