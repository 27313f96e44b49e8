"""Logs which kinds of jobs wait in this client's queues for other clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millhand.clock import Clock, jittered, rest_seconds
from millhand.driver.protocol import Executor
from millhand.job import ClientId
from millhand.log.logger import logger_of
from millhand.runtime.service import IntervalService
from millhand.store.client import client_get_unknown_kinds

logger = logger_of(__name__)

# A queue with more unknown kinds than this belongs to other clients, and the log says enough.
NUM_LOGGED_MAX = 1_000


class KindWatcher(IntervalService):
    """
    Searches, at the start and every `interval_seconds`, for due jobs of kinds other than `kinds`; logs each kind once.

    For a client that fetches known kinds only: other jobs stay available for clients that know them. After a slow search,
    which read dead index entries, the next one waits longer.
    """

    interval_seconds = 60.0

    def __init__(
        self,
        pool: Executor,
        client_id: ClientId,
        *,
        clock: Clock,
        kinds: Sequence[str],
        queues: Callable[[], Sequence[str]],
    ) -> None:
        super().__init__()
        self._client_id = client_id
        self._clock = clock
        self._kinds = kinds
        self._logged: set[str] = set()
        self._pool = pool
        self._queues = queues
        self._rest_seconds = self.interval_seconds

    def next_pause_seconds(self) -> float:
        return jittered(self._rest_seconds)

    async def run_once(self) -> None:
        began = self._clock.monotonic()
        found = await self._pool.run(client_get_unknown_kinds(kinds=self._kinds, queues=self._queues()))
        self._rest_seconds = rest_seconds(self._clock.monotonic() - began, least=self.interval_seconds)
        new = [kind for kind in found if kind not in self._logged][: NUM_LOGGED_MAX - len(self._logged)]
        if new:
            self._logged.update(new)
            logger.info("kinds left to others", extra={"client_id": self._client_id, "kinds": ",".join(new)})
        self.probe("searched", new)
