"""Tells which kinds of jobs, in the queues that this client works, it leaves to others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from millhand.clock import Clock, jittered, rest_seconds
from millhand.driver.protocol import Executor
from millhand.job import ClientId
from millhand.runtime.service import IntervalService
from millhand.store.client import client_get_unknown_kinds

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0
NUM_TOLD_MAX = 1_000  # a queue with more kinds than this is somebody else's, and was told of


class KindWatcher(IntervalService):
    """
    Looks at the start, and every `interval_seconds`, for due jobs of kinds other than `kinds`; tells of each kind once.

    Beside an old snapshot a look reads dead index entries, and one that took long is rested from.
    For a client that fetches known kinds only: such jobs stay available, for whoever knows them.
    """

    def __init__(
        self,
        pool: Executor,
        client_id: ClientId,
        *,
        clock: Clock,
        kinds: Sequence[str],
        queues: Callable[[], Sequence[str]],
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        super().__init__()
        self.interval_seconds = interval_seconds
        self._client_id = client_id
        self._clock = clock
        self._kinds = kinds
        self._pool = pool
        self._queues = queues
        self._rest_seconds = interval_seconds
        self._told: set[str] = set()

    def next_pause_seconds(self) -> float:
        return jittered(self._rest_seconds)

    async def run_once(self) -> None:
        began = self._clock.monotonic()
        found = await self._pool.run(client_get_unknown_kinds(kinds=self._kinds, queues=self._queues()))
        self._rest_seconds = rest_seconds(self._clock.monotonic() - began, least=self.interval_seconds)
        new = [kind for kind in found if kind not in self._told][: NUM_TOLD_MAX - len(self._told)]
        if new:
            self._told.update(new)
            logger.info("kinds left to others", extra={"client_id": self._client_id, "kinds": ",".join(new)})
        self.probe("looked", new)
