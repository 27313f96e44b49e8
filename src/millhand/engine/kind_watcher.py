"""Logs which kinds of jobs wait in this client's queues because it does not know them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from millhand.core.clock import Clock, jittered, rest_seconds
from millhand.core.errors import DriverError
from millhand.core.job import ClientId
from millhand.core.log.logger import logger_of
from millhand.core.sqlstate import INSUFFICIENT_PRIVILEGE
from millhand.db.driver.protocol import Executor
from millhand.engine.fleet import Fleet, load_fleet
from millhand.engine.queue_report import (
    BUILT_IN_KINDS,
    BUILT_IN_ONLY_REMEDY,
    UNKNOWN_KINDS_REMEDY,
    load_due_kinds,
    unknown_kinds,
)
from millhand.engine.service import IntervalService
from millhand.engine.store.queue_load import NUM_DUE, DueKind
from millhand.engine.waiting_jobs import WaitingJobs

logger = logger_of(__name__)

# A queue with more unknown kinds than this belongs to other clients, and the log says enough.
NUM_LOGGED_MAX = 1_000
# Clients that start together know of each other after this time.
CONFIRM_SECONDS = 3.0
# An inserted job that other clients know is fetched by then.
INSERT_SECONDS = 1.0
NUM_EARLY = 5


class KindWatcher(IntervalService):
    """
    Searches for due jobs of kinds other than `kinds`, and logs each kind once: a warning if no client of the queue knows it.

    A search follows the start, an insert, and else every `interval_seconds`. Inserts cause up to `NUM_EARLY` searches before
    their time, and as many come later. A kind that no client knows is searched again before it is logged: a client that
    knows it may be starting. After a slow search, which read dead index entries, the next one waits longer.
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
        waiting: Callable[[], WaitingJobs | None] = lambda: None,
    ) -> None:
        super().__init__()
        self._client_id = client_id
        self._clock = clock
        self._kinds = frozenset(kinds)
        self._logged: set[str] = set()
        self._pool = pool
        self._queues = queues
        self._search_at = self._early_from = self._paid_until = clock.monotonic()
        self._suspects: dict[str, int] = {}  # no client worked them at the last search; the jobs of each
        self._waiting = waiting
        self.is_search_soon = False  # whether an insert has had the next search as early as it may be

    async def run(self, started: Callable[[], None]) -> None:
        await super().run(started)
        self._log_unworked(self._suspects)  # a worker with --until-empty stops before the next search

    def on_insert(self) -> None:
        """Search soon: the inserted job may be of an unknown kind. While `is_search_soon`, this has no effect."""
        self.is_search_soon = True
        search_at = max(self._clock.monotonic() + INSERT_SECONDS, self._early_from)
        if search_at < self._search_at:
            self._search_at = search_at
            self.wake_event.set()
            self.probe("woken")

    def next_pause_seconds(self) -> float:
        return max(self._search_at - self._clock.monotonic(), 0.0)

    async def run_once(self) -> None:
        if self._clock.monotonic() >= self._search_at:
            await self.search()

    async def search(self) -> None:
        began = self._clock.monotonic()
        due = await load_due_kinds(self._pool, self._queues(), limit=NUM_DUE, waiting=self._waiting())
        took = self._clock.monotonic() - began
        new = [one for one in due if one.kind not in self._kinds and one.kind not in self._logged]
        unworked = unworked_kinds(new, await self._fleet()) if new else {}
        is_certain = unworked.keys() & self._suspects.keys()
        self._suspects = {kind: num for kind, num in unworked.items() if kind not in is_certain}
        self._log_left({one.kind for one in new} - unworked.keys())
        self._log_unworked({kind: unworked[kind] for kind in is_certain})
        self._schedule(took)
        self.probe("searched", sorted({one.kind for one in new}))

    async def _fleet(self) -> Fleet | None:
        """Return the clients; None if this client's role may not read them."""
        try:
            return await load_fleet(self._pool, self._clock.now())
        except DriverError as error:
            if error.sqlstate != INSUFFICIENT_PRIVILEGE:
                raise
            return None

    def _schedule(self, took_seconds: float) -> None:
        self.is_search_soon = False
        now, interval = self._clock.monotonic(), self.interval_seconds
        self._paid_until = max(self._paid_until, now) + interval
        self._early_from = max(now + rest_seconds(took_seconds), self._paid_until - NUM_EARLY * interval)
        if self._suspects:
            self._search_at = max(now + CONFIRM_SECONDS, self._early_from)
        else:
            self._search_at = now + jittered(rest_seconds(took_seconds, least=interval))

    def _log_left(self, kinds: Collection[str]) -> None:
        if new := self._first(kinds):
            logger.info("kinds left to others", extra={"client_id": self._client_id, "kinds": ",".join(new)})

    def _log_unworked(self, num_jobs: Mapping[str, int]) -> None:
        if new := self._first(num_jobs):
            fields = {
                "kinds": ",".join(new),
                "num_jobs": sum(num_jobs[kind] for kind in new),
                "remedy": BUILT_IN_ONLY_REMEDY if self._kinds <= BUILT_IN_KINDS else UNKNOWN_KINDS_REMEDY,
            }
            logger.warning("jobs of unknown kinds wait", extra={"client_id": self._client_id, **fields})

    def _first(self, kinds: Collection[str]) -> list[str]:
        """Return the kinds to log, and remember them."""
        new = sorted(kinds)[: NUM_LOGGED_MAX - len(self._logged)]
        self._logged.update(new)
        return new


def unworked_kinds(due: Sequence[DueKind], fleet: Fleet | None) -> dict[str, int]:
    """
    Return the kinds that no client of their queue works, with the number of due jobs.

    None, if there is a trace of a client in another language: it may know any kind, and have no slot free.
    """
    if fleet is None or fleet.has_others:
        return {}
    unworked: Counter[str] = Counter()
    for one in due:
        if unknown_kinds(one.queue, fleet, [one]):
            unworked[one.kind] += one.num_due
    return unworked
